"""Fit classical heads on features of the images: logistic regression, decision tree, k nearest neighbours, linear SVM.

    python -m studies.heads --data pbc8 --features hog
    python -m studies.heads --data pbc8 --features resnet18 --head logreg knn
    python -m studies.heads --data pbc8 --features efficientnet_lite0

Features are HOG, what a trained model passes to its last layer, or the pooled features of a network with ImageNet weights. They
are standardised with the mean and standard deviation of train.csv. One setting of each head is chosen on valid.csv by a small
grid.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.errors import UserError
from lab.options import add_machine, add_places, add_quiet, add_report, parse
from models import catalog
from studies import bases

HEADS = {
    "logreg": "logistic regression",
    "tree": "decision tree",
    "knn": "nearest neighbours",
    "svm": "linear SVM",
}


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Fit classical heads on features of the images.")
    help_features = "hog; a model with a best checkpoint in --weights; or a network with ImageNet weights"
    names = ["hog", *catalog.names(), *bases.NAMES]
    parser.add_argument(
        "--features", required=True, choices=names, metavar="NAME", help=f"{help_features}: {', '.join(names)}"
    )
    parser.add_argument(
        "--head", nargs="+", default=list(HEADS), choices=list(HEADS), help="heads to fit (default: all)"
    )
    help_size = "side of the input of a network with ImageNet weights, px (default: 224)"
    parser.add_argument("--size", type=int, help=help_size)
    parser.add_argument("--weights-file", type=Path, metavar="FILE", help="state dict of a torchvision network")
    add_places(parser)
    add_report(parser)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path or size before torch is imported."""
    from lab.data.lists import find_folder

    bases.check_features(args, find_folder(args.data, args.root, ["train", "valid"]))


ARGS = parse(arguments, __name__, check_paths)

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image
from sklearn.metrics import classification_report

from lab.data.images import read_image
from lab.data.lists import DataSet, ImageList, read_data_set, read_lists
from lab.errors import run
from lab.evaluation.metrics import classification_metrics, write_metrics
from lab.figures.heads import importance_figure, strongest_figure, tree_figure, weights_figure
from lab.figures.rates import classes_roc_figure, rates_figure, rates_page
from lab.figures.style import save
from lab.files import write_whole
from lab.hardware import Hardware, choose_hardware
from lab.terminal import progress
from lab.text import counted
from studies.classical import COLUMNS, SEED, SETTINGS, WIDE, Fitted, Predict, Training, choose, most_telling
from studies.features import HOG, HOG_SHAPE, STORES, Features, Source, available_memory, open_source, stored_features
from studies.systems import TEST_LIST, System, test_images, write_answers, write_system

SHOWN = 6  # images of a feature
REPEATS, IMPORTANCE_FEATURES, IMPORTANCE_IMAGES, REGIONS = 3, 20, 1000, 7  # of permutation importance


def main(args: argparse.Namespace) -> None:
    """Compute the features, then fit, measure and draw each head."""
    data = read_data_set(args.data, args.root)
    lists = read_lists(data, ("train", "valid"))
    check_labels(lists["train"], data)
    test = test_images(data)
    hardware = choose_hardware(args.device, args.precision)
    source = open_source(args.features, data, lists["train"], args.weights, hardware, args.size, args.weights_file)
    check_memory(source, len(lists["train"]), args.head)
    features = {name: stored_features(source, data.name, name, images) for name, images in lists.items()}
    answers = stored_features(source, data.name, TEST_LIST, test) if test else None
    training = Training(features["train"].values, lists["train"].labels, len(data.classes))
    strength = most_telling(training)
    prepared = 0.0  # seconds for the coordinates, which both linear heads need
    for head in args.head:
        name = f"{source.name}_{head}"
        with noted(STORES / data.name / "features" / f"fitting_{name}", name):
            began = time.perf_counter()
            if head in ("logreg", "svm"):
                assert len(training.coordinates)
                prepared = max(prepared, time.perf_counter() - began)
                began = time.perf_counter() - prepared
            value, fitted, grid = choose(training, head, features["valid"].values, lists["valid"].labels, strength)
            seconds = time.perf_counter() - began + sum(found.seconds for found in features.values())
            system = describe(source, head, value, fitted, grid, len(lists["train"]), seconds)
            valid = fitted.predict(features["valid"].values)
            write(system, data, hardware, lists, valid, args.report / data.name)
            if test is not None and answers is not None:
                write_answers(system, data, test, fitted.predict(answers.values).argmax(axis=1))
            draw(system, data, source, fitted, features, lists, args.report / data.name)
    print(
        f"written to {args.report / data.name}: run_, valid_, metrics_, confusion_, roc_, rates_, importance_ and others"
    )


def check_labels(train: ImageList, data: DataSet) -> None:
    """Raise :class:`UserError` if all training images are of one class."""
    seen = np.unique(train.labels)
    if len(seen) < 2:
        raise UserError(
            f"{train.csv}: all images are of class {data.classes[seen[0]]}; a head needs two classes or more."
        )


def check_memory(source: Source, images: int, heads: list[str]) -> None:
    """Raise :class:`UserError` if there is less memory than the heads need."""
    width = source.width
    linear = images * (images if width > WIDE else width)
    # Linear heads: Z Zᵀ and its factor. liblinear copies its input to float64, and that to 16 bytes for each nonzero number.
    numbers = {"logreg": 2 * linear, "svm": 6 * linear, "knn": images * width, "tree": images * min(width, COLUMNS)}
    needed = (
        4 * max(numbers[head] for head in heads) / 2**30 + 1.0
    )  # torch, figures and parts of the features take 1 GiB
    found = available_memory()
    if needed > found:
        raise UserError(
            f"{source.title}: {', '.join(heads)} on {counted(images, 'training image')} need {needed:.1f} GiB of memory, and "
            f"{found:.1f} GiB are available; end other programs, name fewer heads, or take the features of a network."
        )


@contextmanager
def noted(mark: Path, name: str) -> Iterator[None]:
    """Keep a file while a head is fitted, so that the next start can say that the last one was interrupted."""
    if mark.exists():
        print(f"{name}: its fit was interrupted; this step starts again, on the stored features")
    write_whole(mark, "")
    yield
    mark.unlink(missing_ok=True)


def describe(
    source: Source, head: str, value: float, fitted: Fitted, grid: dict[str, float], images: int, seconds: float
) -> System:
    """The system for run_<system>.json. Its training costs that of the network, if it is ours, and a forward pass for each
    training image; the head's own operations are left out."""
    settings = {
        "features": source.settings,
        "head": head,
        SETTINGS[head]: value,
        "chosen_on": "valid.csv",
        "grid": grid,
        **fitted.details,
    }
    return System(
        name=f"{source.name}_{head}",
        title=f"{source.title} with {HEADS[head]}",
        base=source.name,
        size=source.size,
        settings=settings,
        parameters=source.parameters + fitted.parameters,
        macs=source.macs,
        training_flop=None if source.macs is None else source.flop + 2.0 * source.macs * images,
        seconds=source.seconds + seconds,
    )


def write(
    system: System,
    data: DataSet,
    hardware: Hardware,
    lists: dict[str, ImageList],
    probabilities: np.ndarray,
    report: Path,
) -> None:
    """Write the predictions, metrics and curves for valid, and print precision, recall and F1 of each class."""
    labels = lists["valid"].labels
    write_system(system, data, hardware, lists["valid"], probabilities, report)
    table = classification_metrics(labels, probabilities, data.classes).assign(model=system.name)
    write_metrics(report / f"metrics_{system.name}.csv", table)
    numbers = range(len(data.classes))
    predicted = probabilities.argmax(axis=1)
    options = {"labels": numbers, "target_names": data.classes, "digits": 4, "zero_division": 0}
    print(classification_report(labels, predicted, **options))
    title = f"{system.title} on {data.name}, valid.csv"
    save(classes_roc_figure(labels, probabilities, data.classes, title), report / f"roc_{system.name}.png")
    save(rates_figure(labels, probabilities, data.classes, title), report / f"rates_{system.name}.png")
    write_whole(report / f"rates_{system.name}.html", rates_page(labels, probabilities, data.classes, title))


def draw(
    system: System,
    data: DataSet,
    source: Source,
    fitted: Fitted,
    features: dict[str, Features],
    lists: dict[str, ImageList],
    report: Path,
) -> None:
    """Draw what the head looks at."""
    title = f"{system.title} on {data.name}"
    train = lists["train"]
    if fitted.tree is not None and fitted.columns is not None:
        names = [feature_name(source, index) for index in fitted.columns]
        note = (
            "a cell is named by its row and column, of 36, and the direction of the gradient"
            if source.name == HOG
            else ""
        )
        save(tree_figure(fitted.tree, names, data.classes, title, note), report / f"tree_{system.name}.png")
    if fitted.weights is not None and source.name == HOG:
        examples = [mean_image(train, label) for label in range(len(data.classes))]
        figure = weights_figure(cell_weights(fitted.weights), examples, data.classes, title)
        save(figure, report / f"weights_{system.name}.png")
    elif fitted.weights is not None:
        telling = fitted.weights.argmax(axis=0)
        values = features["train"].values[:, telling]
        rows = [np.argsort(-values[:, label], kind="stable")[:SHOWN] for label in range(len(data.classes))]
        images = [[thumbnail(train.paths[index]) for index in row] for row in rows]
        headings = [
            f"feature {index}, weight {fitted.weights[index, label]:+.3f}" for label, index in enumerate(telling)
        ]
        own = [train.labels[row].tolist() for row in rows]
        long = f"{title}: training images with the largest value of each class's most telling feature"
        save(strongest_figure(images, own, headings, data.classes, long), report / f"strongest_{system.name}.png")
    if source.name == HOG and system.name.endswith("_knn"):
        print(f"{system.name}: no permutation importance, because each one would search all neighbours again")
        return
    step = -(-len(lists["valid"]) // IMPORTANCE_IMAGES)
    values, labels = np.array(features["valid"].values[::step]), lists["valid"].labels[::step]
    images_note = f"{counted(len(labels), 'image')} of valid.csv, {REPEATS} shuffles each"
    if source.name == HOG:
        groups, shape = region_groups(), (REGIONS, REGIONS)
        names, note = [""] * len(groups), f"all features of a region of the image together; {images_note}"
    else:
        first = np.argsort(-fitted.strength, kind="stable")[:IMPORTANCE_FEATURES]
        groups, shape, names = [np.array([index]) for index in first], None, [f"feature {index}" for index in first]
        by = {"knn": "F statistic", "tree": "share in the tree's splits"}.get(system.name.rsplit("_", 1)[1], "weight")
        note = f"the {len(first)} of {source.width:,} features with the largest {by}; {images_note}"
    drops = importance(fitted.predict, values, labels, groups)
    save(importance_figure(drops, names, note, shape, title), report / f"importance_{system.name}.png")


def importance(predict: Predict, values: np.ndarray, labels: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """Permutation importance (Breiman 2001, Random Forests, §10): the loss when the columns of each group are shuffled together
    among the images, [groups, repeats]. The loss is that of the true class's mean probability, because accuracy does not change
    with one of hundreds of features. ``values`` [n, D] are changed and restored."""

    def score() -> float:
        return float(predict(values)[np.arange(len(labels)), labels].mean())

    rng = np.random.default_rng(SEED)
    before = score()
    drops = np.zeros((len(groups), REPEATS))
    for number, group in enumerate(progress(groups, "shuffling features", unit=" groups")):
        kept = values[:, group]
        for repeat in range(REPEATS):
            values[:, group] = kept[rng.permutation(len(values))]
            drops[number, repeat] = before - score()
        values[:, group] = kept
    return drops


def region_groups() -> list[np.ndarray]:
    """The numbers of the HOG features in each of ``REGIONS`` × ``REGIONS`` regions of the image, row by row."""
    numbers = np.arange(np.prod(HOG_SHAPE)).reshape(HOG_SHAPE)
    regions = [strip for band in np.array_split(numbers, REGIONS, 0) for strip in np.array_split(band, REGIONS, 1)]
    return [region.ravel() for region in regions]


def cell_weights(weights: np.ndarray) -> np.ndarray:
    """Weights of HOG features [44100, K] as maps [K, cells, cells]: the mean over orientations and over the blocks of a cell."""
    blocks, _, within, _, _ = HOG_SHAPE
    side = blocks + within - 1
    total, count = np.zeros((side, side, weights.shape[1])), np.zeros((side, side, 1))
    means = weights.reshape(*HOG_SHAPE, -1).mean(
        axis=4
    )  # over orientations: [row, column, in the block, in the block, K]
    for row in range(within):
        for column in range(within):
            place = slice(row, row + blocks), slice(column, column + blocks)
            total[place] += means[:, :, row, column]
            count[place] += 1
    return np.moveaxis(total / count, 2, 0)


def feature_name(source: Source, index: int) -> str:
    """A feature in a drawn tree: of HOG the cell's row and column and the direction of the gradient."""
    if source.name != HOG:
        return f"feature {index}"
    row, column, down, right, orientation = np.unravel_index(index, HOG_SHAPE)
    return f"cell {row + down}, {column + right} at {180 // HOG_SHAPE[-1] * int(orientation)}°"


def mean_image(train: ImageList, label: int) -> np.ndarray | None:
    """The mean of up to 100 training images of a class, grey; None if there is none."""
    found = np.flatnonzero(train.labels == label)[:100]
    images = [thumbnail(train.paths[index]).mean(axis=2) for index in found]
    return np.mean(images, axis=0) if images else None


def thumbnail(path: Path) -> np.ndarray:
    """An image as RGB uint8 [144, 144, 3], stretched if it is not square."""
    return np.asarray(Image.fromarray(read_image(path)).resize((144, 144), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    run(main, ARGS)
