"""Write the lists for training, from generated sample images or from real ones.

    python prepare.py sample                                  # 500 generated cells → csv/sample
    python prepare.py kaggle                                  # C-NMC 2019 from Kaggle into data/, verified → csv/cnmc
    python prepare.py cnmc ~/C-NMC_Leukemia                   # the same as downloaded, split by patient → csv/cnmc
    python prepare.py folders ~/PBC_dataset --name pbc        # a folder per class, split by image → csv/pbc
    python prepare.py kaggle --dataset OWNER/NAME             # another data set of Kaggle, a folder per class → csv/NAME
    python prepare.py s3://bucket/prefix --name mine          # images in a bucket: C-NMC, or a folder per class → csv/mine
    python prepare.py medmnist ~/bloodmnist_64.npz            # MedMNIST, its own split → csv/bloodmnist_64

Each writes train.csv and valid.csv (Path,label), resnet_18_test.csv, resnet_50_test.csv and resnet_152_test.csv (Path; the same
images in three orders, as in the lab), classes.csv (label,name) and test_labels.csv (Path,label): the labels of the test images,
for scoring submissions. No training command reads them.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.errors import UserError
from lab.options import add_quiet, parse

CNMC_SHARES, SHARES = (75, 15, 10), (70, 15, 15)  # of train, valid and test


def positive(text: str) -> float:
    """Argument type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def count(text: str) -> int:
    """Argument type: a whole number above 0."""
    return int(positive(str(int(text))))


def seed(text: str) -> int:
    """Argument type: a whole number, 0 or above."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def kaggle_name(text: str) -> str:
    """Argument type: the name of a data set on Kaggle, or its address."""
    name = text.removeprefix("https://").removeprefix("www.").removeprefix("kaggle.com/datasets/").strip("/")
    if not re.fullmatch(r"[\w-]+/[\w-]+", name, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text} is not a name of the form OWNER/NAME")
    return name


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the subcommands."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{sample,kaggle,cnmc,folders,s3,medmnist}")

    sample = commands.add_parser("sample", help="generate sample images in the lab's format")
    text = "folder for the images and lists (default: csv/sample)"
    sample.add_argument("--out", type=Path, default=Path("csv/sample"), help=text)
    for name, number in (("train", 320), ("valid", 120), ("test", 60)):
        text = f"images in the {name} list (default: {number})"
        sample.add_argument(f"--{name}", type=count, default=number, metavar="N", help=text)

    cnmc = commands.add_parser("cnmc", help="C-NMC 2019, split by patient and by content")
    text = "folder of the data set; the images in .../all/ and .../hem/ below it are used"
    cnmc.add_argument("src", type=Path, metavar="SRC", help=text)
    kaggle = commands.add_parser("kaggle", help="download C-NMC 2019 from Kaggle, verify it, and split it like cnmc")
    text = "folder for the download; the images go into C-NMC_Leukemia below it (default: data)"
    kaggle.add_argument("--to", type=Path, default=Path("data"), metavar="FOLDER", help=text)
    text = "its zip if you downloaded it yourself, which needs no token"
    kaggle.add_argument("--archive", type=Path, metavar="FILE", help=text)
    text = "file with the data set's name on Kaggle (default: kaggle.ini)"
    kaggle.add_argument("--settings", type=Path, default=Path("kaggle.ini"), metavar="FILE", help=text)
    text = "another data set on Kaggle, with a folder per class; it goes into FOLDER/NAME"
    kaggle.add_argument("--dataset", type=kaggle_name, metavar="OWNER/NAME", help=text)
    s3 = commands.add_parser(
        "s3", help="download images from a bucket, verify them, and split them like cnmc or folders"
    )
    s3.add_argument("src", metavar="s3://BUCKET/PREFIX", help="where they are; the word s3 before it can be left out")
    text = "folder for the download; the images go into the data set's name below it (default: data)"
    s3.add_argument("--to", type=Path, default=Path("data"), metavar="FOLDER", help=text)
    folders = commands.add_parser("folders", help="split a tree with a folder per class, by image")
    folders.add_argument("src", type=Path, metavar="SRC", help="the folder that contains the class folders")
    medmnist = commands.add_parser("medmnist", help="convert a MedMNIST .npz to PNG images and lists, with its split")
    medmnist.add_argument("src", type=Path, metavar="FILE", help="the .npz file")

    defaults = [(kaggle, "cnmc, or that of --dataset"), (cnmc, "cnmc"), (s3, "the last part of PREFIX")]
    for command, name in (*defaults, (folders, "that of SRC"), (medmnist, "that of FILE")):
        output = command.add_mutually_exclusive_group()
        output.add_argument("--name", help=f"short name of the data set: the lists go into csv/NAME (default: {name})")
        output.add_argument("--out", type=Path, help="or the folder for the lists")
    for command, shares in ((kaggle, None), (cnmc, CNMC_SHARES), (s3, None), (folders, SHARES)):
        either = "75 15 10 for C-NMC, else 70 15 15"
        text = f"relative sizes of the lists (default: {' '.join(map(str, shares)) if shares else either})"
        names = ("TRAIN", "VALID", "TEST")
        command.add_argument("--shares", type=positive, nargs=3, default=shares, metavar=names, help=text)
    for command in (sample, kaggle, cnmc, folders, s3, medmnist):
        command.add_argument("--seed", type=seed, default=0, help="seed of all random numbers (default: 0)")
        command.add_argument("--fresh", action="store_true", help="replace existing lists")
        add_quiet(command)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before anything slow is imported."""
    if args.command in ("cnmc", "folders") and not args.src.is_dir():
        raise UserError(f"{args.src} is not a folder: name the folder that contains the images.")
    if args.command == "s3" and not args.src.startswith("s3://"):
        raise UserError(f"{args.src} is not an address of the form s3://bucket/prefix.")
    unpacked = args.command == "kaggle" and (args.to / download_name(args)).is_dir()
    if args.command == "kaggle" and args.archive and not unpacked and not args.archive.is_file():
        raise UserError(f"{args.archive}: there is no such archive; name the zip that Kaggle gave you.")
    if args.command == "medmnist" and not args.src.is_file():
        raise UserError(f"{args.src} is not a MedMNIST .npz: there is no such file.")


def download_name(args: argparse.Namespace) -> str:
    """The folder below ``--to`` that a data set of Kaggle is unpacked into."""
    return args.dataset.split("/")[1] if args.dataset else "C-NMC_Leukemia"


if __name__ == "__main__" and sys.argv[1:2] and sys.argv[1].startswith("s3://"):
    sys.argv.insert(1, "s3")
ARGS = parse(arguments, __name__, check_paths)

import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from lab.errors import run
from lab.files import alone, replacing, write_whole
from lab.sources import s3 as bucket
from lab.sources import splits
from lab.sources.folders import find_images, fingerprints
from lab.sources.kaggle_download import data_set_name, download, labelled, unpack, verify
from lab.sources.kaggle_download import images as archived_images
from lab.sources.medmnist import MEDMNIST_PARTS, medmnist_part
from lab.sources.sample import GENERATOR, MARKER, SPLITS, write_images
from lab.sources.trees import read_tree
from lab.terminal import progress
from lab.text import counted

CLASSES = ("normal", "leukemia blast")
C_NMC = "C-NMC 2019 (The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r), split by patient (prepare.py).\n"


def main(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    commands = {"sample": sample, "kaggle": kaggle, "cnmc": cnmc, "folders": folders, "s3": s3, "medmnist": medmnist}
    commands[args.command](args)


# ---- the subcommands --------------------------------------------------------------------------------------------------------


def sample(args: argparse.Namespace) -> None:
    """Draw the sample, unless it exists with the same settings."""
    counts = {split: getattr(args, split) for split in SPLITS}
    settings = {"generator": GENERATOR, "seed": args.seed, **counts}
    if not args.fresh and is_complete(args.out, counts, settings):
        print(f"{args.out} is already there, made with the same settings (--fresh draws it again).")
    else:
        refuse_existing(args.out, args.fresh)
        remove_lists(args.out)
        images = progress(write_images(args.out, counts, args.seed), "drawing", sum(counts.values()))
        write_lists(args.out, pd.DataFrame(images, columns=["list", "path", "label"]), CLASSES, args.seed)
        write_whole(args.out / MARKER, json.dumps(settings, indent=2) + "\n")
    print_next(args.out)


def kaggle(args: argparse.Namespace) -> None:
    """Download C-NMC 2019 or another data set unless it is there, and split it. C-NMC is verified. Unpacked images are kept if a
    later step fails."""
    name = download_name(args)
    output_folder(args, name if args.dataset else "cnmc")  # refuses existing lists before a long download
    archive, args.src = args.archive or args.to / f"{name}.zip", args.to / name
    args.shares = args.shares or (SHARES if args.dataset else CNMC_SHARES)
    with alone(args.to, "downloading"):
        if args.dataset:
            check_source(args.src, args.dataset)
        if args.src.is_dir():
            print(f"{args.src} is there already")
        else:
            if args.archive is None:
                download(args.dataset or data_set_name(args.settings), archive, cnmc=not args.dataset)
            unpack(archive, args.src, archived_images if args.dataset else labelled)
        if args.dataset:
            folders(args)
        else:
            cnmc(args, partial(verify, args.src))
        if args.archive is None and archive.exists():
            archive.unlink()
            print(f"removed {archive}, because its images are unpacked{'' if args.dataset else ' and verified'}")


def s3(args: argparse.Namespace) -> None:
    """Download the images of a bucket unless they are there, and split them: C-NMC, which its file names tell, by patient, others
    with a folder per class by image."""
    name = args.name or PurePosixPath(args.src.removeprefix("s3://")).name
    out = output_folder(args, name)
    args.address, args.src, args.out = args.src, args.to / name, out
    with alone(args.to, "downloading"):
        check_source(args.src, args.address)
        if args.src.is_dir():
            print(f"{args.src} is there already")
        else:
            bucket.fetch(args.address, args.src)
    paths = [PurePosixPath(path) for path in find_images(args.src)]
    # C-NMC as downloaded also has unlabelled images, outside all/ and hem/, which prepare.py cnmc leaves out.
    named = [path.stem for path in paths if path.parent.name.lower() in ("all", "hem")]
    of_cnmc = bool(named) and all(map(splits.CNMC_NAME.fullmatch, named))
    print(
        f"split {'by patient, as the file names are those of C-NMC' if of_cnmc else 'by image, with a folder per class'}"
    )
    args.shares = args.shares or (CNMC_SHARES if of_cnmc else SHARES)
    (cnmc if of_cnmc else folders)(args)


def cnmc(args: argparse.Namespace, check: Callable[[pd.DataFrame], None] | None = None) -> None:
    """Split the labelled part of C-NMC 2019 by patient and by content; ``check`` gets the table of all images and hashes."""
    out = output_folder(args, "cnmc")
    table, ignored = splits.cnmc_table(find_images(args.src))
    if ignored:
        images = counted(ignored, "image")
        print(f"{images} outside the class folders all/ and hem/ ignored (the unlabelled parts of C-NMC).")
    table = table.assign(sha256=fingerprints(args.src, table["path"]))
    if check:
        check(table)
    table = splits.split_by_patient(drop_conflicts(table, CLASSES), args.shares, args.seed)
    patients, copies = table["patient"].nunique(), int(table["sha256"].duplicated().sum())
    groups = len(np.unique(splits.connected_groups(table["patient"], table["sha256"])))
    print(f"{patients} patients; {copies:,} byte-identical copies join them into {groups} groups, each in one list.")
    write_lists(out, table, CLASSES, args.seed)
    write_whole(out / splits.SOURCE, C_NMC)
    print_next(out, args.src)


def folders(args: argparse.Namespace) -> None:
    """Split a tree with a folder per class, or keep the split that it has; classes are numbered in natural order."""
    out = output_folder(args, args.src.resolve().name)
    paths = find_images(args.src)
    try:
        table, names, notes = read_tree(paths)
    except UserError as error:
        raise UserError(f"{args.src}: {error}") from None
    for note in notes:
        print(note)
    table = drop_conflicts(table.assign(sha256=fingerprints(args.src, table["path"])), names)
    write_lists(out, splits.complete(table, args.shares, args.seed), names, args.seed)
    where = {"s3": f"The bucket {getattr(args, 'address', '')}", "kaggle": f"Kaggle's {getattr(args, 'dataset', '')}"}
    source = where.get(args.command, f"The folder {args.src.resolve().name}")
    write_whole(out / splits.SOURCE, f"{source}, with a folder per class (prepare.py {args.command}).\n")
    print_next(out, args.src)


def medmnist(args: argparse.Namespace) -> None:
    """Write the arrays of a MedMNIST file as PNG images; its split is kept."""
    out = output_folder(args, args.src.stem)
    rows: list[tuple[str, str, int]] = []
    # All parts are read before any is written.
    parts = {split: medmnist_part(args.src, part) for split, part in MEDMNIST_PARTS.items()}
    remove_lists(out)
    for split, (images, labels) in parts.items():
        for index in progress(range(len(images)), f"writing {split}"):
            with replacing(out / split / f"{index}.png") as temporary:
                Image.fromarray(images[index]).save(temporary)
        rows += [(split, f"./{split}/{index}.png", int(label)) for index, label in enumerate(labels)]
    table = pd.DataFrame(rows, columns=["list", "path", "label"])
    names = [f"class {label}" for label in range(int(table["label"].max()) + 1)]
    write_lists(out, table, names, args.seed)
    write_whole(out / splits.SOURCE, f"MedMNIST, {args.src.name}, with its own split (prepare.py medmnist).\n")
    print(f"the file does not name its classes: write their names into {out / 'classes.csv'}.")
    print_next(out)


# ---- their steps ------------------------------------------------------------------------------------------------------------


def output_folder(args: argparse.Namespace, name: str) -> Path:
    """Return the folder for the lists: ``--out``, or ``csv/<name>``. Raises :class:`UserError` if it has lists already."""
    out: Path = args.out or Path("csv") / (args.name or name)
    if args.out is None and out.parent != Path("csv"):
        raise UserError(f"--name {args.name} is not a plain name; to write elsewhere than csv/<name> use --out.")
    refuse_existing(out, args.fresh)
    return out


def check_source(folder: Path, source: str) -> None:
    """Note beside a folder of downloaded images where they are from. Raises :class:`UserError` if they are from elsewhere."""
    note = folder.with_name(f".{folder.name}.source")
    known = note.read_text(encoding="utf-8") if note.is_file() else source
    if folder.is_dir() and known != source:
        raise UserError(f"{folder}: has the images of {known}, not of {source}; choose another --name or --to.")
    write_whole(note, source)


def refuse_existing(out: Path, fresh: bool) -> None:
    """Raise :class:`UserError` if ``out`` has lists already, unless ``fresh``."""
    existing = [name for name in splits.FILES if (out / name).exists()]
    if existing and not fresh:
        raise UserError(f"{out} already has {', '.join(existing)}: add --fresh to replace them, or change the folder.")


def remove_lists(out: Path) -> None:
    """Remove old lists before images are overwritten, so that an interrupted run leaves no list of other images."""
    for name in (*splits.FILES, splits.SOURCE, MARKER):
        (out / name).unlink(missing_ok=True)


def drop_conflicts(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Drop and report images that occur with different labels. Raises :class:`UserError` if a class has no image left."""
    table, conflicts = splits.without_conflicts(table)
    if len(conflicts):
        images, examples = counted(len(conflicts), "image"), ", ".join(conflicts["path"][:4])
        print(f"{images} left out: byte-identical under different labels ({examples}, …).")
    for label in sorted(set(range(len(names))) - set(table["label"])):
        raise UserError(
            f"no image of class {names[label]} is left: add images of this class only, or remove the class."
        )
    return table


def write_lists(out: Path, table: pd.DataFrame, names: Sequence[str], random_seed: int) -> None:
    """Write the lists after their images, so that they never name a missing one, and print a summary."""
    relative = table["path"].where(table["path"].str.startswith("./"), "./" + table["path"])
    splits.write_lists(out, table.assign(path=relative), names, random_seed)
    print(splits.summary(table, names))
    print(f"wrote {out}: {', '.join(splits.FILES)}")


def is_complete(out: Path, counts: dict[str, int], settings: dict[str, int]) -> bool:
    """Whether ``out`` contains every list and image of a sample that was drawn with these settings."""
    try:
        if json.loads((out / MARKER).read_text(encoding="utf-8")) != settings:
            return False
    except (FileNotFoundError, ValueError):
        return False
    images = [f"{split}/{index}.bmp" for split, number in counts.items() for index in range(number)]
    return all((out / name).exists() for name in (*splits.FILES, *images))


def print_next(out: Path, root: Path | None = None) -> None:
    """Print the command that trains on these lists."""
    command = ["python", "train.py", "--model", "resnet18", "--data", str(out)]
    print(f"next: {shlex.join(command + (['--root', str(root)] if root else []))}")


if __name__ == "__main__":
    run(main, ARGS)
