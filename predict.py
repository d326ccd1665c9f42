"""Predict the test list of each model and write its Kaggle submission (``ID,label``).

    python predict.py --model resnet50                  # csv/lab3/resnet_50_test.csv → csv/lab3/submission_resnet50.csv
    python predict.py --model all --data csv/sample
    python predict.py --check csv/lab3/submission_resnet50.csv      # compare a submission with its test list
    python predict.py --data sample --check csv/sample/submission_resnet50.csv --labels csv/sample/test_labels.csv

Each depth has its own test list in its own order. The preprocessing is read from the checkpoint. confidence_<model>.csv beside a
submission says which predictions are certain.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.errors import UserError
from lab.options import GivenParser, add_machine, add_places, add_quiet, add_trained_model, parse
from models.catalog import find, names


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = GivenParser(description="Write the Kaggle submission of each depth.")
    add_places(parser)
    add_trained_model(parser)
    parser.add_argument("--out", type=Path, help="folder of the submissions (default: csv/<data>)")
    help_check = "only check this submission: header, IDs and their order, labels, completeness, class shares"
    parser.add_argument("--check", type=Path, metavar="FILE", help=help_check)
    help_labels = "with --check: also print the accuracy on this file of true labels (Path,label)"
    parser.add_argument("--labels", type=Path, metavar="FILE", help=help_labels)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before torch is imported, and choose the data set if none is given."""
    from lab.checkpoints.headers import check_chosen, chosen_data
    from lab.data.lists import data_name, find_folder
    from lab.tables import read_text

    args.data = chosen_data(args.data, "data" in args.given, args.weights)
    folder = find_folder(args.data, args.root, [] if args.model == "all" else [find(args.model).test_list])
    if args.labels and not args.check:
        raise UserError("--labels needs a submission to score: --check FILE.")
    if args.check:
        for path in filter(None, (args.check, args.labels)):
            read_text(path)
    else:
        check_chosen(args.weights / data_name(folder), args.model)


ARGS = parse(arguments, __name__, check_paths)

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from lab.checkpoints.headers import chosen_models
from lab.checkpoints.origin import weights_digests, write_origin
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.errors import run
from lab.evaluation.metrics import wilson
from lab.evaluation.prediction import NOT_FOR_DIAGNOSIS, Predicted, predict_list
from lab.files import write_whole
from lab.hardware import choose_hardware
from lab.kaggle.submissions import check_submission, submission_folder, write_submission
from lab.terminal import warn
from lab.text import counted, percent, shown


def main(args: argparse.Namespace) -> None:
    """Write one submission for each requested model."""
    data = read_data_set(args.data, args.root)
    if args.check:
        images, labels = check(args.check, args.model, data)
        if args.labels:
            score(images.ids, labels, args.labels, data)
        return
    models = chosen_models(args.weights / data.name, args.model)
    if args.model == "all":
        for model in list(models):
            name = find(model).test_list
            if not (data.folder / f"{name}.csv").is_file():
                models.remove(model)
                print(f"{model}: skipped, there is no {name}.csv in {data.folder}")
    if not models:
        raise UserError(f"{data.folder}: none of the trained models has a test list there.")
    # Check all lists before the first prediction, which may take minutes.
    lists = {model: read_list(data, find(model).test_list, labelled=False) for model in models}
    hardware = choose_hardware(args.device, args.precision)
    out = args.out or submission_folder(data)
    for model, images in lists.items():
        path = args.weights / data.name / model / "best.safetensors"
        digests = weights_digests(path)  # before they are read, because a training may replace them
        found = predict_list(path, model, data, "test", images, args.d4, hardware)
        predictions = found.probabilities.argmax(axis=1)
        submission, side = out / f"submission_{model}.csv", out / f"confidence_{model}.csv"
        write_submission(submission, images, predictions, data)
        write_origin(submission, digests, found.d4)
        write_confidences(side, images, found)
        print(f"{model}: {images.csv.name} → {submission}, {len(images):,} rows")
        values, counts = np.unique(found.verdicts, return_counts=True)
        print(f"{model}: {', '.join(f'{n:,} {name}' for name, n in zip(values, counts, strict=True))}, see {side}")
        warn_of_shares(model, predictions, found.about.classes, found.about.train_share)
    print(NOT_FOR_DIAGNOSIS)


def write_confidences(path: Path, images: ImageList, found: Predicted) -> None:
    """Write each image's predicted class, its confidence, and whether it is certain; beside the submission, because Kaggle takes
    no further column."""
    rows = found.probabilities
    columns = {
        "ID": images.ids,
        "label": rows.argmax(axis=1),
        "confidence": rows.max(axis=1),
        "verdict": found.verdicts,
    }
    write_whole(path, pd.DataFrame(columns).to_csv(index=False, float_format="%.5f", lineterminator="\n"))


def check(path: Path, model: str, data: DataSet) -> tuple[ImageList, np.ndarray]:
    """Check a submission of ``model``, or of the model in the file's name, and print its class shares. Returns its test list and
    its labels."""
    if model == "all":
        # As in submission_resnet18.csv or resnet_18_test_adam.csv; the longest first, because a name may begin with another.
        plain = {name.replace("_", ""): name for name in sorted(names(), key=len, reverse=True)}
        match = re.search(rf"({'|'.join(plain)})(?!\d)", re.sub("[-_ ]", "", path.name.lower()))
        if not match:
            raise UserError(f"{path}: the file name contains no model's name; give --model.")
        model = plain[match[0]]
    images = read_list(data, find(model).test_list, labelled=False, check_files=False)
    labels = check_submission(path, images, data)
    values, counts = np.unique(labels, return_counts=True)
    classes = [data.classes[value] if data.classes else f"class {value}" for value in values]
    shares = ", ".join(f"{percent(n / len(labels), 1)} {name}" for name, n in zip(classes, counts, strict=True))
    print(f"{path}: complete and in the order of {images.csv.name}, {len(labels):,} rows; {shares}")
    if (data.folder / "train.csv").is_file():
        train = read_list(data, "train", labelled=True, check_files=False).labels
        expected = np.bincount(train, minlength=len(data.classes)) / len(train)
        warn_of_shares(model, labels, data.classes, expected.tolist())
    return images, labels


def score(ids: list[str], predictions: np.ndarray, labels: Path, data: DataSet) -> None:
    """Print the accuracy of predictions on a file of true labels, which may have any order and further images."""
    if not data.classes or labels.suffix != ".csv":
        needed = (
            "a name that ends in .csv" if data.classes else f"the classes: a train.csv or classes.csv in {data.folder}"
        )
        raise UserError(f"--labels {labels}: needs {needed}.")
    listed = read_list(replace(data, folder=labels.parent), labels.stem, labelled=True, check_files=False)
    truth = dict(zip(listed.ids, listed.labels.tolist(), strict=True))
    missing = [name for name in ids if name not in truth]
    if missing:
        count = counted(len(missing), "image")
        raise UserError(f"{labels}: has no label for {count} of the submission, the first is '{shown(missing[0])}'.")
    hits = int((predictions == [truth[name] for name in ids]).sum())
    low, high = wilson(hits, len(ids))
    interval = f"95 % interval {100 * low:.2f}–{100 * high:.2f}"
    print(f"accuracy {percent(hits / len(ids))} ({interval}), {hits:,} of {len(ids):,} labels agree with {labels.name}")


def warn_of_shares(model: str, predictions: np.ndarray, classes: list[str], shares: list[float]) -> None:
    """Warn if a class is predicted far more or less often than it occurs in training, as with a wrong list or preprocessing.
    The limit is 5 points or three standard errors, whichever is larger."""
    count = len(predictions)
    for label, expected in enumerate(shares):
        share = float((predictions == label).mean())
        limit = max(0.05, 3 * (expected * (1 - expected) / count) ** 0.5)
        if abs(share - expected) > limit:
            predicted = f"{model} predicts {classes[label]} for {percent(share, 1)} of the images"
            warn(f"{predicted}, compared with {percent(expected, 1)} in training; is it the right list?")


if __name__ == "__main__":
    run(main, ARGS)
