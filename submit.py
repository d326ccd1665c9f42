"""Hand in: the zip of report and sources, the zip of the weights, and the submissions on Kaggle.

    python submit.py --student-id 311605004 --name 劉子齊         # → DLP_LAB3_311605004_劉子齊.zip and …_weights.zip
    python submit.py --kaggle --dry-run                         # what would be sent to which competition; sends nothing
    python submit.py --kaggle                                   # sends it and shows the scores; names: kaggle.ini
    python submit.py --prove weights/lab3                       # checksums, and that each network loads and computes

The zips are written only when everything in them holds: the report is there, the sources import from the zip alone, the weights
load from it, and each depth's submission answers its own list. What is missing is said at once, with the commands that make it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.options import add_places, add_quiet, add_report, parse
from models.catalog import depths, find


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--student-id", metavar="ID", help="as in the zip's name: 311605004")
    parser.add_argument("--name", help="as in the zip's name: 劉子齊")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="of the zips (default: where you are)"
    )
    add_places(parser)
    add_report(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, show it, and write or send nothing")
    other = parser.add_argument_group("instead of the zips").add_mutually_exclusive_group()
    other.add_argument("--kaggle", action="store_true", help="upload the submissions, and wait for their scores")
    help_prove = "a folder weights/<data>: compare its checksums, load each network and let it compute"
    other.add_argument("--prove", type=Path, metavar="FOLDER", help=help_prove)
    kaggle = parser.add_argument_group("for --kaggle")
    kaggle.add_argument(
        "--model", default="all", choices=[*depths(), "all"], help="which submission (default: all three)"
    )
    kaggle.add_argument(
        "--wait", type=float, default=15, metavar="MINUTES", help="for the scores, at most (default: 15)"
    )
    help_settings = "file with the competitions' names (default: kaggle.ini)"
    kaggle.add_argument("--settings", type=Path, default=Path("kaggle.ini"), metavar="FILE", help=help_settings)
    add_quiet(parser)
    return parser


ARGS = parse(arguments, __name__)

import shlex
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from lab.checkpoints.ensembles import others
from lab.data.lists import DataSet, data_name, read_data_set, read_list
from lab.errors import UserError, run
from lab.files import replacing
from lab.handin import zips as hand_in
from lab.handin.checks import prove, prove_unpacked
from lab.kaggle.client import sign_in
from lab.kaggle.competitions import make_entry, read_competitions, upload_all
from lab.kaggle.submissions import check_submission, submission_folder
from lab.terminal import warn

PROJECT = Path(__file__).resolve().parent
LISTS = ("train.csv", "valid.csv", "classes.csv", *(f"{find(model).test_list}.csv" for model in depths()))
Submissions = dict[str, tuple[Path, int]]  # of each model: the file, and its rows


def main(args: argparse.Namespace) -> None:
    """The zips, or Kaggle, or the proof of weights."""
    if args.prove:
        print("\n".join(prove(args.prove)))
    elif args.kaggle:
        send(args)
    else:
        make_zips(args)


def make_zips(args: argparse.Namespace) -> None:
    """Gather the two zips, try them where nothing else is, and write both or neither."""
    if not args.student_id or not args.name:
        raise UserError(
            "give --student-id and --name as they are to stand in the zip's name, such as 311605004 and 劉子齊."
        )
    title, name = hand_in.stem(args.student_id, args.name), data_name(args.data)
    again = again_options(args)
    problems = []

    report = hand_in.find_report(args.report / name, PROJECT)
    fault = hand_in.report_fault(report)
    if fault:
        words = ["--student-id", args.student_id, "--name", args.name, "--data", args.data]
        problems.append(f"{report}: {fault}; {command('report.py', *words)}")
    sources = hand_in.sources(PROJECT)
    problems += [f"{file}: is missing; take it from the project anew" for file in hand_in.NEEDED if file not in sources]
    weights = {model: args.weights / name / model / "best.safetensors" for model in depths()}
    for model, path in weights.items():
        if not path.is_file():
            problems.append(f"{path}: is missing; {command('train.py', '--model', model, *again)}")
    files: dict[str, Path | bytes] = {**sources, "report.pdf": report}
    try:
        data = read_data_set(args.data, args.root)
    except UserError as error:
        problems.append(f"the submissions: cannot be checked, since {error}")
    else:
        submissions, wrong = checked_submissions(data, depths(), again)
        problems += wrong
        lists = [data.folder / file for file in LISTS] + [path for path, _ in submissions.values()]
        files |= {f"csv/{name}/{path.name}": path for path in lists}
        if not problems:
            warn_of_age(report, weights, submissions)
    if report.with_suffix(".html").is_file():
        files["report.html"] = report.with_suffix(".html")
    files = {place: path for place, path in files.items() if isinstance(path, bytes) or path.is_file()}
    networks = {model: [path, *others(path.parent)] for model, path in weights.items() if path.is_file()}

    with new_files(args.out, title, args.dry_run) as (first, second):
        hand_in.write_zip(first, title, files, compress=True)
        hand_in.write_zip(second, title, hand_in.weights_bundle(title, name, networks), compress=False)
        with tempfile.TemporaryDirectory(dir=second.parent) as fresh:
            for archive in (first, second):
                with zipfile.ZipFile(archive) as zipped:
                    zipped.extractall(fresh)
            folder = Path(fresh).resolve() / title
            faults, proved = prove_unpacked(folder, folder / "weights" / name if networks else None)
        problems += faults
        if problems:
            raise UserError(
                "nothing was written, since the hand-in is not whole:" + "".join(f"\n  {p}" for p in problems)
            )
        sizes = [path.stat().st_size / 1e6 for path in (first, second)]
    print("\n".join(proved))
    said = "would write" if args.dry_run else "wrote"
    print(
        f"{said} {args.out / first.name}: report.pdf and {len(files) - 1} files of sources and lists, {sizes[0]:.1f} MB"
    )
    print(f"{said} {args.out / second.name}: the weights of {', '.join(networks)}, {sizes[1]:.1f} MB")


@contextmanager
def new_files(out: Path, title: str, dry_run: bool) -> Iterator[tuple[Path, Path]]:
    """Temporary places of the two zips, which come to stand in ``out`` together when the block ends well; or, dry, go."""
    names = f"{title}.zip", f"{title}_weights.zip"
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, names[0]), Path(folder, names[1])
    else:
        with replacing(out / names[0]) as first, replacing(out / names[1]) as second:
            yield first, second


def checked_submissions(data: DataSet, models: list[str], again: list[str]) -> tuple[Submissions, list[str]]:
    """The submissions that answer their own lists, and what is wrong with the others, each with the command that mends it."""
    found: Submissions = {}
    problems = []
    for model in models:
        path = submission_folder(data) / f"submission_{model}.csv"
        mend = command("predict.py", "--model", model, *again)
        if not path.is_file():
            problems.append(f"{path}: is missing; {mend}")
            continue
        try:
            images = read_list(data, find(model).test_list, labelled=False, check_files=False)
            found[model] = path, len(check_submission(path, images, data))
        except UserError as error:
            problems.append(f"{'; '.join(line.strip() for line in str(error).splitlines()[:2])}; {mend}")
    return found, problems


def warn_of_age(report: Path, weights: dict[str, Path], submissions: Submissions) -> None:
    """Say where something is older than what it was made from; times may lie after copying, so this refuses nothing."""
    for model, (path, _) in submissions.items():
        if path.stat().st_mtime < weights[model].stat().st_mtime:
            warn(f"{path} is older than {weights[model]}; is it that network's?")
    newest = max(path.stat().st_mtime for path in weights.values())
    if report.stat().st_mtime < newest:
        warn(f"{report} is older than the weights; does it tell of them?")


def again_options(args: argparse.Namespace) -> list[str]:
    """The options by which another command finds the same lists, images and weights."""
    root = ["--root", args.root] if args.root else []
    weights = ["--weights", str(args.weights)] if args.weights != Path("weights") else []
    return ["--data", args.data, *root, *weights]


def command(*words: str) -> str:
    """A command to copy."""
    return shlex.join(["python", *words])


def send(args: argparse.Namespace) -> None:
    """Check the submissions, show them, and unless the run is dry send them and wait for their scores."""
    data = read_data_set(args.data, args.root)
    models = depths() if args.model == "all" else [args.model]
    competitions = read_competitions(args.settings, models)
    submissions, problems = checked_submissions(data, models, again_options(args))
    if problems:
        raise UserError("nothing was sent:" + "".join(f"\n  {problem}" for problem in problems))
    entries = [make_entry(model, *submissions[model], competitions[model], data.name) for model in models]
    if args.dry_run:
        rows = [[entry.path, f"{entry.rows:,}", entry.competition, entry.message] for entry in entries]
        print(pd.DataFrame(rows, columns=["file", "rows", "competition", "message"]).to_string(index=False))
        print("a dry run: nothing was sent")
        return
    upload_all(sign_in(), entries, 60 * args.wait)


if __name__ == "__main__":
    run(main, ARGS)
