"""Hand in the lab: a zip of report and sources, a zip of weights for each of the lab's two forms, the submissions on Kaggle.

    python submit.py --student-id 311605004 --name 劉子齊         # → DLP_LAB3_…_劉子齊.zip, …_weights_18_50.zip, …_152.zip
    python submit.py --kaggle --dry-run                         # what would be sent to which competition; sends nothing
    python submit.py --kaggle --student-id 311605004            # sends it, prints the scores, and checks the team's name
    python submit.py --prove weights/lab3                       # checksums, and that each network loads and computes

The zips are written only if they are complete: the report exists with name, student ID and discussion, the sources can be
imported from the zip alone, the weights can be loaded, and each submission has the IDs of its depth's list. All faults are
reported together, with the commands that correct them. --anyway hands in an unfinished report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.errors import UserError
from lab.options import add_places, add_quiet, add_report, parse
from models.catalog import depths, find


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument(
        "--student-id", metavar="ID", help="for the zips' names, and with --kaggle to check the team's: 311605004"
    )
    parser.add_argument("--name", help="for the zip's name: 劉子齊")
    help_out = "folder for the zips (default: the working directory)"
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help=help_out)
    add_places(parser)
    add_report(parser)
    help_anyway = "hand in a report without name, student ID or discussion"
    parser.add_argument("--anyway", action="store_true", help=help_anyway)
    parser.add_argument("--dry-run", action="store_true", help="check and print everything, but write or send nothing")
    other = parser.add_argument_group("instead of the zips").add_mutually_exclusive_group()
    other.add_argument("--kaggle", action="store_true", help="upload the submissions, and wait for their scores")
    help_prove = "a folder weights/<data>: compare its checksums, and load and run each network"
    other.add_argument("--prove", type=Path, metavar="FOLDER", help=help_prove)
    kaggle = parser.add_argument_group("for --kaggle")
    help_model = "which submission (default: all three)"
    kaggle.add_argument("--model", default="all", choices=[*depths(), "all"], help=help_model)
    help_wait = "longest time to wait for the scores (default: 15)"
    kaggle.add_argument("--wait", type=float, default=15, metavar="MINUTES", help=help_wait)
    help_settings = "file with the competitions' names (default: kaggle.ini)"
    kaggle.add_argument("--settings", type=Path, default=Path("kaggle.ini"), metavar="FILE", help=help_settings)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path or name before torch is imported."""
    from lab.checkpoints.headers import trained_models
    from lab.data.lists import find_folder
    from lab.handin.zips import hand_in_name
    from lab.kaggle.competitions import read_competitions

    if args.prove:
        trained_models(args.prove)
        return
    if args.kaggle:
        find_folder(args.data, args.root)
        read_competitions(args.settings, depths() if args.model == "all" else [args.model])
        return
    if not args.student_id or not args.name:
        raise UserError("give --student-id and --name for the zip's name, such as 311605004 and 劉子齊.")
    hand_in_name(args.student_id, args.name)
    find_folder(args.data, args.root)


ARGS = parse(arguments, __name__, check_paths)

import shlex
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pandas as pd

from lab.checkpoints.checkpoint import check_data, read_about
from lab.checkpoints.ensembles import others
from lab.checkpoints.origin import origin_doubt, weights_digests
from lab.data.lists import DataSet, data_name, read_data_set, read_list
from lab.errors import run
from lab.files import PROJECT, replacing
from lab.handin.checks import prove, prove_unpacked
from lab.handin.zips import (
    FORMS,
    NEEDED,
    find_report,
    hand_in_name,
    report_fault,
    report_keywords,
    result_files,
    source_files,
    weights_bundle,
    write_zip,
    zip_names,
)
from lab.kaggle.client import sign_in
from lab.kaggle.competitions import TEAM, make_entry, read_competitions, upload_all
from lab.kaggle.submissions import check_submission, submission_folder
from lab.sources.sample import MARKER
from lab.sources.splits import SOURCE
from lab.terminal import warn

LISTS = (
    "train.csv",
    "valid.csv",
    "classes.csv",
    SOURCE,
    MARKER,
    *(f"{find(model).test_list}.csv" for model in depths()),
)
Submissions = dict[str, tuple[Path, int]]  # for each model: the file, and its number of rows


def main(args: argparse.Namespace) -> None:
    """Write the zips, send the submissions to Kaggle, or check weights."""
    if args.prove:
        print("\n".join(prove(args.prove)))
    elif args.kaggle:
        send(args)
    else:
        make_zips(args)


def make_zips(args: argparse.Namespace) -> None:
    """Write the zips, unless the check of their unpacked contents fails."""
    title, name = hand_in_name(args.student_id, args.name), data_name(args.data)
    options = data_options(args)
    problems: list[str] = []

    report = find_report(args.report / name, PROJECT)
    problems += report_problems(report, args, options)
    sources = source_files(PROJECT)
    problems += [f"{file}: is missing; copy it from the project" for file in NEEDED if file not in sources]
    weights = {model: args.weights / name / model / "best.safetensors" for model in depths()}
    for model, path in weights.items():
        if not path.is_file():
            problems.append(f"{path}: is missing; {command('train.py', '--model', model, *options)}")
    files = {**sources, **result_files(args.report / name, name)}
    files |= {"report.pdf": report, "report.html": report.with_suffix(".html")}
    generated = False
    try:
        data = read_data_set(args.data, args.root)
    except UserError as error:
        problems.append(f"the submissions: cannot be checked; {error}")
    else:
        submissions, faults = checked_submissions(data, args.weights / name, depths(), options)
        problems += faults
        lists = [data.folder / file for file in LISTS]
        lists += [file for path, _ in submissions.values() for file in (path, path.with_suffix(".json"))]
        files |= {f"csv/{name}/{path.name}": path for path in lists}
        generated = (data.folder / MARKER).is_file()
        if not problems:
            warn_of_other_weights(report, weights)
    contents: dict[str, Path | bytes] = {file: path for file, path in files.items() if path.is_file()}
    if generated:
        note = f"The images of data set {name} are generated (prepare.py sample), not the lab's"
        warn(f"{note}.")
        contents[f"csv/{name}/GENERATED.txt"] = f"{note}.\n".encode()
    networks = {model: [path, *others(path.parent)] for model, path in weights.items() if path.is_file()}

    forms = [{model: networks[model] for model in models if model in networks} for models in FORMS.values()]
    with temporary_zips(args.out, title, args.dry_run) as archives:
        write_zip(archives[0], title, contents, compress=True)
        for archive, form in zip(archives[1:], forms, strict=True):
            write_zip(archive, title, weights_bundle(title, name, form, generated), compress=False)
        with tempfile.TemporaryDirectory(dir=archives[1].parent) as unpacked:
            for archive in archives:
                with zipfile.ZipFile(archive) as zipped:
                    zipped.extractall(unpacked)
            folder = Path(unpacked).resolve() / title
            faults, rows = prove_unpacked(folder, folder / "weights" / name if networks else None)
        problems += faults
        if problems:
            raise UserError("\n  ".join(["nothing was written, because the hand-in is not complete:", *problems]))
        sizes = [path.stat().st_size / 1e6 for path in archives]
    print("\n".join(rows))
    texts = [f"report.pdf and {len(contents) - 1} files of sources, lists and results"]
    texts += [f"the weights of {' and '.join(form)}, which the lab collects in one form" for form in forms]
    for archive, content, size in zip(archives, texts, sizes, strict=True):
        print(f"{'would write' if args.dry_run else 'wrote'} {args.out / archive.name}: {content}, {size:.1f} MB")


def report_problems(report: Path, args: argparse.Namespace, options: list[str]) -> list[str]:
    """Return what is wrong with the report, with the command that writes it. An unfinished one is a warning with ``--anyway``."""
    folder = ["--report", str(args.report)] if args.report != Path("report") else []
    remedy = command("report.py", "--student-id", args.student_id, "--name", args.name, *options, *folder)
    if fault := report_fault(report):
        return [f"{report}: {fault}; {remedy}"]
    missing = [word.removeprefix("missing ") for word in report_keywords(report) if word.startswith("missing ")]
    if missing:
        discussion = args.report / data_name(args.data) / "discussion.txt"
        first = f"write the discussion into {discussion}, then " if "discussion" in missing else ""
        text = f"{report}: is unfinished, without {', '.join(missing)}; {first}{remedy}"
        if not args.anyway:
            return [f"{text} (--anyway hands it in as it is)"]
        warn(text)
    return []


@contextmanager
def temporary_zips(out: Path, title: str, dry_run: bool) -> Iterator[list[Path]]:
    """Yield temporary paths of the zips. If the block succeeds, all are moved to ``out``, or deleted with ``dry_run``."""
    with ExitStack() as stack:
        if dry_run:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield [folder / name for name in zip_names(title)]
        else:
            yield [stack.enter_context(replacing(out / name)) for name in zip_names(title)]


def checked_submissions(
    data: DataSet, weights: Path, models: list[str], options: list[str]
) -> tuple[Submissions, list[str]]:
    """Return the correct submissions, and the problems of the others, each with the command that writes it again. The folder
    ``weights`` must not be that of another data set of the same name."""
    submissions: Submissions = {}
    problems = []
    for model in models:
        path = submission_folder(data) / f"submission_{model}.csv"
        remedy = command("predict.py", "--model", model, *options)
        if not path.is_file():
            problems.append(f"{path}: is missing; {remedy}")
            continue
        best = weights / model / "best.safetensors"
        try:
            if best.is_file():
                check_data(best, read_about(best, model), data)
        except UserError as error:
            problems.append(str(error))
            continue
        try:
            images = read_list(data, find(model).test_list, labelled=False, check_files=False)
            submissions[model] = path, len(check_submission(path, images, data))
            if doubt := best.is_file() and origin_doubt(path, best):  # no fault: an earlier submission may be handed in
                warn(f"{path} {doubt}.")
        except UserError as error:
            problems.append(f"{'; '.join(line.strip() for line in str(error).splitlines()[:2])}; {remedy}")
    return submissions, problems


def warn_of_other_weights(report: Path, weights: dict[str, Path]) -> None:
    """Warn of a report that describes other weights."""
    words = [word for word in report_keywords(report) if word.startswith("weights ")]
    for model, best in weights.items():
        described = [word.split()[-1] for word in words if word.startswith(f"weights {model} ")]
        if words and described != [digest[:16] for digest in weights_digests(best)]:
            warn(f"{report} does not describe the present {best}; run evaluate.py and report.py again.")


def data_options(args: argparse.Namespace) -> list[str]:
    """Return the options for another command to use the same lists, images and weights."""
    root = ["--root", args.root] if args.root else []
    weights = ["--weights", str(args.weights)] if args.weights != Path("weights") else []
    return ["--data", args.data, *root, *weights]


def command(*arguments: str) -> str:
    """Return a command line to copy."""
    return shlex.join(["python", *arguments])


def send(args: argparse.Namespace) -> None:
    """Check the submissions, then send them and wait for the scores, or only print them with ``--dry-run``."""
    data = read_data_set(args.data, args.root)
    models = depths() if args.model == "all" else [args.model]
    competitions = read_competitions(args.settings, models)
    submissions, problems = checked_submissions(data, args.weights / data.name, models, data_options(args))
    if problems:
        raise UserError("\n  ".join(["nothing was sent:", *problems]))
    entries = [make_entry(model, *submissions[model], competitions[model], data.name) for model in models]
    if args.dry_run:
        rows = [[entry.path, f"{entry.rows:,}", entry.competition, entry.message] for entry in entries]
        print(pd.DataFrame(rows, columns=["file", "rows", "competition", "message"]).to_string(index=False))
        print(f"a dry run: nothing was sent; {TEAM}")
        return
    upload_all(sign_in(), entries, 60 * args.wait, args.student_id or "")


if __name__ == "__main__":
    run(main, ARGS)
