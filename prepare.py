"""Write the lists that training reads, from the sample generator or from real images.

    python prepare.py sample                                  # 500 drawn cells → csv/sample
    python prepare.py kaggle                                  # C-NMC 2019 from Kaggle into data/, verified → csv/cnmc
    python prepare.py cnmc ~/C-NMC_Leukemia                   # the same as downloaded, split by patient → csv/cnmc
    python prepare.py folders ~/PBC_dataset --name pbc        # a folder per class, split by image → csv/pbc
    python prepare.py medmnist ~/bloodmnist_64.npz            # MedMNIST, its own split → csv/bloodmnist_64

Each writes train.csv and valid.csv (Path,label), resnet_18_test.csv, resnet_50_test.csv and resnet_152_test.csv (Path; the same
images in three orders, as in the lab), classes.csv (label,name) and test_labels.csv: the truth of the test images, which
no command of training reads and by which a submission is scored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.options import add_quiet, parse


def positive(text: str) -> float:
    """Type of an argument: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def count(text: str) -> int:
    """Type of an argument: a whole number above 0."""
    return int(positive(str(int(text))))


def seed(text: str) -> int:
    """Type of an argument: a whole number, 0 or above."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def arguments() -> argparse.ArgumentParser:
    """The five subcommands and their options."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{sample,kaggle,cnmc,folders,medmnist}")

    sample = commands.add_parser("sample", help="draw sample cells in the lab's own form")
    sample.add_argument(
        "--out", type=Path, default=Path("csv/sample"), help="folder to write into (default: csv/sample)"
    )
    for name, number in (("train", 320), ("valid", 120), ("test", 60)):
        text = f"images in the {name} list (default: {number})"
        sample.add_argument(f"--{name}", type=count, default=number, metavar="N", help=text)

    cnmc = commands.add_parser("cnmc", help="C-NMC 2019, split by patient and by content")
    cnmc.add_argument(
        "src", type=Path, metavar="SRC", help="its folder; the images in .../all/ and .../hem/ are found below it"
    )
    kaggle = commands.add_parser("kaggle", help="download C-NMC 2019 from Kaggle, verify it, and split it like cnmc")
    text = "folder of downloads; the images go into C-NMC_Leukemia below it (default: data)"
    kaggle.add_argument("--to", type=Path, default=Path("data"), metavar="FOLDER", help=text)
    text = "its zip where you downloaded it yourself, which needs no token"
    kaggle.add_argument("--archive", type=Path, metavar="FILE", help=text)
    text = "file with the data set's name on Kaggle (default: kaggle.ini)"
    kaggle.add_argument("--settings", type=Path, default=Path("kaggle.ini"), metavar="FILE", help=text)
    folders = commands.add_parser("folders", help="a tree with a folder per class, each class split alike")
    folders.add_argument("src", type=Path, metavar="SRC", help="the folder that holds the class folders")
    medmnist = commands.add_parser("medmnist", help="a MedMNIST .npz as PNG images and lists, its own split kept")
    medmnist.add_argument("src", type=Path, metavar="FILE", help="the .npz file")

    for command, name in ((kaggle, "cnmc"), (cnmc, "cnmc"), (folders, "that of SRC"), (medmnist, "that of FILE")):
        where = command.add_mutually_exclusive_group()
        where.add_argument("--name", help=f"short name of the data set: the lists go into csv/NAME (default: {name})")
        where.add_argument("--out", type=Path, help="or the folder to write the lists into")
    for command, shares in ((kaggle, (75, 15, 10)), (cnmc, (75, 15, 10)), (folders, (70, 15, 15))):
        text = "relative sizes of the lists (default: {} {} {})".format(*shares)
        names = ("TRAIN", "VALID", "TEST")
        command.add_argument("--shares", type=positive, nargs=3, default=shares, metavar=names, help=text)
    for command in (sample, kaggle, cnmc, folders, medmnist):
        command.add_argument("--seed", type=seed, default=0, help="everything random is a function of it (default: 0)")
        command.add_argument("--fresh", action="store_true", help="replace the lists that are there")
        add_quiet(command)
    return parser


ARGS = parse(arguments, __name__)

import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image

from lab.errors import UserError, run
from lab.files import alone, replacing, write_whole
from lab.sources import sample as generator
from lab.sources import splits
from lab.sources.folders import find_images, fingerprints
from lab.sources.kaggle_download import data_set_name, download, unpack, verify
from lab.sources.medmnist import MEDMNIST_PARTS, medmnist_part
from lab.terminal import progress
from lab.text import counted

CLASSES = ("normal", "leukemia blast")


def main(args: argparse.Namespace) -> int:
    """Run the subcommand asked for."""
    if args.command == "sample":
        return sample(args)
    if args.command == "kaggle":
        return kaggle(args)
    args.src = args.src.expanduser()
    if args.command == "medmnist":
        return medmnist(args)
    if not args.src.is_dir():
        raise UserError(f"{args.src} is not a folder: name the folder that holds the images.")
    return cnmc(args) if args.command == "cnmc" else folders(args)


# ---- the five verbs ---------------------------------------------------------------------------------------------------------


def sample(args: argparse.Namespace) -> int:
    """Draw the sample; the same settings a second time find it already there."""
    out: Path = args.out
    counts = {split: getattr(args, split) for split in generator.SPLITS}
    settings = {"generator": generator.GENERATOR, "seed": args.seed, **counts}
    made = out / "sample.json"
    if not args.fresh and made.exists() and same_settings(made, settings) and all_there(out, counts):
        print(f"{out} is already there, made with the same settings (--fresh draws it again).")
        return say_next(out)
    refuse(out, args.fresh)
    remove_lists(out)
    images = progress(generator.write(out, counts, args.seed), "drawing", sum(counts.values()))
    table = pd.DataFrame(images, columns=["list", "path", "label"])
    finish(out, table, CLASSES, args.seed)
    write_whole(made, json.dumps(settings, indent=2) + "\n")
    return say_next(out)


def kaggle(args: argparse.Namespace) -> int:
    """Download C-NMC 2019 unless it is there, verify it, and split it. What was unpacked stays where the next step fails."""
    target(args, "cnmc")  # lists that are there are in the way before a long download, not after it
    args.to = args.to.expanduser()
    archive = args.archive.expanduser() if args.archive else args.to / "C-NMC_Leukemia.zip"
    args.src = args.to / "C-NMC_Leukemia"
    with alone(args.to, "downloading"):
        if args.src.is_dir():
            print(f"{args.src} is there already")
        else:
            if args.archive is None:
                download(data_set_name(args.settings), archive)
            unpack(archive, args.src)
        status = cnmc(args, partial(verify, args.src))
        if args.archive is None and archive.exists():
            archive.unlink()
            print(f"removed {archive}, whose labelled images are unpacked and verified")
    return status


def cnmc(args: argparse.Namespace, check: Callable[[pd.DataFrame], None] | None = None) -> int:
    """Split the labelled part of C-NMC 2019 by patient and by content, after a ``check`` of all images with their hashes."""
    out = target(args, "cnmc")
    table, ignored = splits.cnmc_table(find_images(args.src))
    if ignored:
        print(
            f"{counted(ignored, 'image')} outside the class folders all/ and hem/ ignored (the unlabelled parts of C-NMC)."
        )
    table = table.assign(sha256=fingerprints(args.src, table["path"]))
    if check:
        check(table)
    table = kept(table, CLASSES)
    table = splits.split_by_patient(table, args.shares, args.seed)
    copies = int(table["sha256"].duplicated().sum())
    groups = len(np.unique(splits.joined(table["patient"], table["sha256"])))
    patients = table["patient"].nunique()
    print(
        f"{patients} patients; {copies:,} byte-identical copies join them into {groups} groups, each kept in one list."
    )
    finish(out, table, CLASSES, args.seed)
    return say_next(out, args.src)


def folders(args: argparse.Namespace) -> int:
    """Split a tree with a folder per class; classes are numbered in natural order of their names."""
    out = target(args, args.src.resolve().name)
    paths = find_images(args.src)
    inside = [path for path in paths if "/" in path]
    if len(inside) < len(paths):
        print(f"{counted(len(paths) - len(inside), 'image')} outside any class folder ignored.")
    names = sorted({path.split("/")[0] for path in inside}, key=splits.natural)
    if len(names) < 2:
        raise UserError(
            f"{args.src} holds {len(names)} class folders with images; at least 2 are needed, one per class."
        )
    if len({name.strip() for name in names} - {""}) < len(names):
        raise UserError(f"{args.src}: every class folder needs a name of its own, not of spaces alone; rename them.")
    table = pd.DataFrame({"path": inside, "label": [names.index(path.split("/")[0]) for path in inside]})
    table = kept(table.assign(sha256=fingerprints(args.src, table["path"])), names)
    finish(out, splits.split_by_image(table, args.shares, args.seed), names, args.seed)
    return say_next(out, args.src)


def medmnist(args: argparse.Namespace) -> int:
    """Write the arrays of a MedMNIST file as PNG images; its own split is kept."""
    out = target(args, args.src.stem)
    rows: list[tuple[str, str, int]] = []
    parts = {
        split: medmnist_part(args.src, part) for split, part in MEDMNIST_PARTS.items()
    }  # all read before any is written
    remove_lists(out)
    for split, (images, labels) in parts.items():
        for index in progress(range(len(images)), f"writing {split}"):
            with replacing(out / split / f"{index}.png") as temporary:
                Image.fromarray(images[index]).save(temporary)
        rows += [(split, f"./{split}/{index}.png", int(label)) for index, label in enumerate(labels)]
    table = pd.DataFrame(rows, columns=["list", "path", "label"])
    names = [f"class {label}" for label in range(int(table["label"].max()) + 1)]
    finish(out, table, names, args.seed)
    print(f"the file does not name its classes: write their names into {out / 'classes.csv'}.")
    return say_next(out)


# ---- their steps ------------------------------------------------------------------------------------------------------------


def target(args: argparse.Namespace, name: str) -> Path:
    """The folder of lists to write: ``--out``, or ``csv/<name>``; refuses to write over lists that are there."""
    out: Path = args.out or Path("csv") / (args.name or name)
    if args.out is None and out.parent != Path("csv"):
        raise UserError(f"--name {args.name} is not a plain name; to write somewhere else than csv/<name> use --out.")
    refuse(out, args.fresh)
    return out


def refuse(out: Path, fresh: bool) -> None:
    """Stop before lists that are there are written over, unless ``fresh``."""
    there = [name for name in splits.FILES if (out / name).exists()]
    if there and not fresh:
        raise UserError(
            f"{out} already holds {', '.join(there)}: add --fresh to replace them, or choose another folder."
        )


def remove_lists(out: Path) -> None:
    """Take old lists away before images are written over, so that an interrupted run leaves no list of other images."""
    for name in (*splits.FILES, "sample.json"):
        (out / name).unlink(missing_ok=True)


def kept(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Leave out, and say so, images whose bytes also stand under another label; refuse where that empties a class."""
    table, conflicts = splits.without_conflicts(table)
    if len(conflicts):
        print(
            f"{counted(len(conflicts), 'image')} left out: byte-identical under different labels "
            f"({', '.join(conflicts['path'][:4])}, …)."
        )
    for label in sorted(set(range(len(names))) - set(table["label"])):
        raise UserError(
            f"no image of class {names[label]} is left: add images that stand under this class alone, or remove the class."
        )
    return table


def finish(out: Path, table: pd.DataFrame, names: Sequence[str], random_seed: int) -> None:
    """Write the lists, last, so that they never name an image that is not there; print what came out."""
    relative = table["path"].where(table["path"].str.startswith("./"), "./" + table["path"])
    splits.write_lists(out, table.assign(path=relative), names, random_seed)
    print(splits.summary(table, names))
    print(f"wrote {out}: {', '.join(splits.FILES)}")


def same_settings(made: Path, settings: dict[str, int]) -> bool:
    """Whether the sample noted in ``made`` was drawn with these settings."""
    try:
        return json.loads(made.read_text(encoding="utf-8")) == settings
    except ValueError:
        return False


def all_there(out: Path, counts: dict[str, int]) -> bool:
    """Whether every list and every image of a sample is there."""
    images = (out / split / f"{index}.bmp" for split, number in counts.items() for index in range(number))
    return all((out / name).exists() for name in splits.FILES) and all(image.exists() for image in images)


def say_next(out: Path, root: Path | None = None) -> int:
    """Print the command that trains on these lists; exit status 0."""
    command = ["python", "train.py", "--model", "resnet18", "--data", str(out)]
    print(f"next: {shlex.join(command + (['--root', str(root)] if root else []))}")
    return 0


if __name__ == "__main__":
    run(main, ARGS)
