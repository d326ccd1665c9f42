"""Write the lab's report on a data set from the files of training and evaluation.

    python report.py --student-id 311605004 --name 劉子齊          # the runs on csv/lab3
    python report.py --data csv/sample                             # a missing name is a marked gap
    python report.py --language zh                                 # in Traditional Chinese

Writes report.pdf and report.html (a single file) into report/<data>/. Every number comes from the runs' files; what is missing is
a marked gap and a warning. The student's discussion is read from report/<data>/discussion.txt: plain text, an empty line between
paragraphs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.options import GivenParser, add_places, add_quiet, add_report, parse


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = GivenParser(description="Write the report of a data set as PDF and as one page of HTML.")
    parser.add_argument("--student-id", help="the student ID in the title (default: a marked gap)")
    parser.add_argument("--name", help="the student's name in the title (default: a marked gap)")
    help_language = "en, or zh for Traditional Chinese (default: en)"
    parser.add_argument("--language", default="en", choices=["en", "zh"], help=help_language)
    parser.add_argument("--date", help="YYYY-MM-DD (default: the day of the newest history)")
    add_places(parser)
    add_report(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong data set before torch is imported, and choose it if none is given."""
    from lab.checkpoints.headers import chosen_data
    from lab.data.lists import check_root, data_name, find_folder

    check_root(args.root)
    args.data = chosen_data(args.data, "data" in args.given, args.weights)
    if not any((folder / data_name(args.data)).is_dir() for folder in (args.report, args.weights)):
        find_folder(args.data, args.root)


ARGS = parse(arguments, __name__, check_paths)

import re
import shlex
from datetime import UTC, date, datetime

from dataloader import LeukemiaLoader
from lab.checkpoints.origin import weights_digests
from lab.data.lists import DataSet, ImageList, data_name, read_data_set, read_list
from lab.errors import UserError, run
from lab.files import PROJECT
from lab.report.discussion import discussion
from lab.report.networks import layers
from lab.report.parts import Parts
from lab.report.results import results
from lab.report.runs import Gaps, Run, check_lists, read_metrics, read_runs
from lab.report.sections import Material, implementation, introduction, preprocessing, source
from lab.report.texts import Texts
from lab.report.typesetting import check_libraries, uncovered, write_html, write_pdf
from lab.tables import read_text
from lab.terminal import warn
from models.catalog import resnets


def main(args: argparse.Namespace) -> None:
    """Read the files, compute, write the report, and warn of what is missing."""
    check_title(args)
    check_libraries()
    name, t = data_name(args.data), Texts(args.language)
    report, gaps = args.report / name, Gaps()

    def command(script: str, model: str) -> str:
        """The command line of a script for this data set."""
        line = ["python", script, "--data", args.data, *(["--root", args.root] if args.root else [])]
        folders = {"weights": str(args.weights), "report": str(args.report)}
        line += [f"--{option}={folder}" for option, folder in folders.items() if folder != option]
        return shlex.join(line + ([] if model == "all" and script != "train.py" else ["--model", model]))

    runs = read_runs(t, report, args.weights / name, command, gaps)
    read_metrics(t, runs, report, command("evaluate.py", "all"), gaps)
    data, lists = find_lists(t, args.data, args.root, gaps)
    if data is not None:
        check_lists(runs, data, lists["valid"], args.weights / name, report)
    day = args.date or last_day(report)
    if day is None:
        gaps.note(t("gap_date"))
    for option in ("student_id", "name"):
        if not getattr(args, option):
            gaps.note(t(f"gap_{option}"))

    classes = class_names(data, runs)
    full = max((run.about.preprocessing.size for run in runs.values() if run.about is not None), default=224)
    parts = Parts(gaps)
    material = Material(
        t=t,
        report=report,
        data=data,
        lists=lists,
        runs=runs,
        classes=classes,
        layers={model: layers(model, max(len(classes), 2), run.size or full) for model, run in runs.items()},
        ablations=PROJECT / "benchmarks" / "results" / "ablations.csv",
        loader=source(LeukemiaLoader.__getitem__),
    )
    words = own_words(t, report / "discussion.txt", gaps)
    filled = {"name": args.name, "student ID": args.student_id, "discussion": words}
    values = {
        "t": t,
        "data": name,
        "folder": args.data,
        "student_id": args.student_id,
        "name": args.name,
        "date": day,
        "classes": classes,
        "introduction": introduction(material, parts),
        "implementation": implementation(material, parts),
        "preprocessing": preprocessing(material, parts),
        "results": results(material, parts),
        "discussion": discussion(material, parts),
        "words": words,
        "keywords": keywords([part for part, given in filled.items() if not given], args.weights / name, runs),
    }
    write_html(report / "report.html", values)
    write_pdf(report / "report.pdf", values, parts.made, day)
    for text in gaps.texts:
        warn(text)
    print(f"written to {report}: report.pdf, report.html")


def keywords(missing: list[str], weights: Path, runs: dict[str, Run]) -> str:
    """The PDF's keywords, which submit.py reads: what the student has not filled in, and the weights that are described."""
    words = [f"missing {part}" for part in missing]
    for model, found in runs.items():
        best = weights / model / "best.safetensors"
        if "fresh" in found.missing:  # the results are of other weights
            words.append(f"weights {model} unknown")
            continue
        words += [f"weights {model} {digest[:16]}" for digest in weights_digests(best)]
    return ", ".join(words)


def check_title(args: argparse.Namespace) -> None:
    """Raise UserError if the name, ID or date cannot be printed in the title; note characters that the font lacks."""
    for option in ("name", "student_id"):
        text = getattr(args, option) or ""
        if not text.isprintable() or len(text) > 80 or (text and not text.strip()):
            raise UserError(f"--{option.replace('_', '-')}: expected 1 to 80 printable characters on one line.")
    try:
        if args.date:
            args.date = date.fromisoformat(args.date).isoformat()
    except ValueError:
        raise UserError(f"--date {args.date}: expected a day such as 2026-01-31.") from None
    beyond = uncovered(f"{args.name or ''}{args.student_id or ''}")
    if beyond:
        print(f"note: the report's font lacks {beyond}; a system font is used if one has it, so check the PDF.")


def last_day(report: Path) -> str | None:
    """The day of the newest history of a ResNet, UTC; None without a history."""
    paths = [report / f"history_{model}.csv" for model in resnets()]
    times = [path.stat().st_mtime for path in paths if path.is_file()]
    return datetime.fromtimestamp(max(times), UTC).date().isoformat() if times else None


def find_lists(t: Texts, folder: str, root: str | None, gaps: Gaps) -> tuple[DataSet | None, dict[str, ImageList]]:
    """The data set and its labelled lists, if they are found; the images may be missing."""
    try:
        data = read_data_set(folder, root)
        return data, {name: read_list(data, name, labelled=True, check_files=False) for name in ("train", "valid")}
    except UserError as error:
        gaps.note(t("gap_list_error", error=str(error).splitlines()[0]))
        return None, {}


def class_names(data: DataSet | None, runs: dict[str, Run]) -> list[str]:
    """The classes, from the lists or from a run. Raises UserError if an evaluation has another number of classes."""
    known = [data.classes] if data is not None else []
    known += [run.about.classes for run in runs.values() if run.about is not None]
    counts = {model: run.result[1].shape[1] for model, run in runs.items() if run.labels is not None}
    classes = known[0] if known else [f"class {label}" for label in range(max(counts.values(), default=0))]
    for model, count in counts.items():
        if count != len(classes):
            problem = f"valid_{model}.csv has {count} classes, but the data set has {len(classes)}"
            raise UserError(f"{problem}; run evaluate.py again.")
    return classes


def own_words(t: Texts, path: Path, gaps: Gaps) -> list[str]:
    """The student's paragraphs; none is a gap."""
    text = read_text(path) if path.is_file() else ""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    if not paragraphs:
        gaps.note(t("gap_discussion", file=path))
    return paragraphs


if __name__ == "__main__":
    run(main, ARGS)
