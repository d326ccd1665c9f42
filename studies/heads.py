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
    from lab.checkpoints.headers import check_chosen
    from lab.data.lists import data_name, find_folder

    folder = find_folder(args.data, args.root, ["train", "valid"])
    if args.features in bases.NAMES:
        bases.check_base(args.features, args.weights_file)
        bases.check_size(args.features, args.size or bases.SIZE)
        return
    if args.size is not None or args.weights_file is not None:
        raise UserError(f"--size and --weights-file are for networks with ImageNet weights, not for {args.features}.")
    if args.features != "hog":
        check_chosen(args.weights / data_name(folder), args.features)


ARGS = parse(arguments, __name__, check_paths)

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import ssyrk
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from lab.data.images import read_image
from lab.data.lists import DataSet, ImageList, read_data_set, read_lists
from lab.errors import run
from lab.evaluation.confidence import fit_temperature
from lab.evaluation.metrics import classification_metrics, write_metrics
from lab.figures.heads import importance_figure, strongest_figure, tree_figure, weights_figure
from lab.figures.rates import classes_roc_figure, rates_figure, rates_page
from lab.figures.style import save
from lab.files import write_whole
from lab.hardware import Hardware, choose_hardware
from lab.terminal import progress, warn
from lab.text import counted, duration, percent
from studies.features import HOG, HOG_SHAPE, STORES, Features, Source, open_source, stored_features
from studies.systems import System, test_images, write_answers, write_system

# The grids. C is given for features whose squares sum to 1 in an image, and is divided by the number of features.
GRIDS: dict[str, list[float]] = {
    "logreg": [0.1, 1, 10, 100, 1000],
    "tree": [4, 6, 8, 10, 15],
    "knn": [1, 3, 5, 9, 15, 25],
    "svm": [0.001, 0.01, 0.1, 1, 10],
}
SETTINGS = {"logreg": "C", "tree": "max_depth", "knn": "n_neighbors", "svm": "C"}
WIDE = 8192  # features; with more, linear heads are fitted in coordinates of the training images
COLUMNS = 2000  # features that a tree is given
ROWS = 512  # images that are standardised at once
SEED = 0
SHOWN = 6  # images of a feature
REPEATS, IMPORTANCE_FEATURES, IMPORTANCE_IMAGES, REGIONS = 3, 20, 1000, 7  # of permutation importance
Predict = Callable[[np.ndarray], np.ndarray]  # features [n, D] → class probabilities [n, K]


@dataclass(frozen=True)
class Training:
    """The features of the training images [N, D], their labels [N], and the number of classes K."""

    features: np.ndarray
    labels: np.ndarray
    classes: int

    @cached_property
    def scaler(self) -> StandardScaler:
        """Mean and standard deviation of each feature."""
        scaler = StandardScaler()
        for part in parts(self.features):
            scaler.partial_fit(part)
        return scaler

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Features [n, D] with the training images' mean 0 and standard deviation 1, float32."""
        return (features - self.scaler.mean_.astype(np.float32)) / self.scaler.scale_.astype(np.float32)

    @cached_property
    def coordinates(self) -> np.ndarray:
        """What linear heads are fitted on, float32 [N, M]: the standardised features Z, or, with more than ``WIDE``, the Cholesky
        factor L of Z Zᵀ.

        A linear head with an L2 penalty has weights w = Zᵀ a (the representer theorem: Schölkopf et al. 2001), so that it
        depends on Z Zᵀ = L Lᵀ alone. There is a Q with orthonormal columns and Z = L Qᵀ, so that the head on L has the same
        scores and the same penalty.
        """
        if self.features.shape[1] <= WIDE:
            return np.concatenate([self.standardise(part) for part in parts(self.features)])
        count, width = self.features.shape
        print(
            f"linear heads: fitted on {count:,} coordinates, because {width:,} features are more than the images",
            flush=True,
        )
        mean, scale = self.scaler.mean_.astype(np.float32), self.scaler.scale_.astype(np.float32)
        gram = np.zeros((count, count), np.float32, order="F")
        for begin in progress(range(0, width, 2048), "products of all pairs", unit=" parts"):
            part = slice(begin, begin + 2048)
            columns = (self.features[:, part] - mean[part]) / scale[part]
            gram = ssyrk(1.0, columns.T, 1.0, gram, trans=1, lower=1, overwrite_c=1)
        # The mean of the features is 0, so that the matrix is singular. The addition is below float32's errors of the sums.
        diagonal = np.arange(count)
        gram[diagonal, diagonal] += 1e-5 * gram[diagonal, diagonal].mean()
        factor: np.ndarray = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        return np.ascontiguousarray(factor)

    def to_features(self, weights: np.ndarray) -> np.ndarray:
        """Weights of coordinates [M, K] as weights of standardised features [D, K]."""
        if self.features.shape[1] <= WIDE:
            return weights
        solved = solve_triangular(self.coordinates, weights, lower=True, trans="T", check_finite=False)
        total = np.zeros((self.features.shape[1], weights.shape[1]), np.float32)
        for begin, part in zip(range(0, len(solved), ROWS), parts(self.features), strict=True):
            total += self.standardise(part).T @ solved[begin : begin + ROWS]
        return total


@dataclass(frozen=True)
class Fitted:
    """A fitted head.

    Attributes:
        predict: features [n, D] → class probabilities [n, K].
        parameters: the numbers that it stores.
        strength: how telling each feature is by the head's own measure, [D].
        details: what else was chosen.
        weights: of the standardised features [D, K], for linear heads.
        tree, columns: of a decision tree, and the features that it was given.
    """

    predict: Predict
    parameters: int
    strength: np.ndarray
    details: dict[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None
    tree: DecisionTreeClassifier | None = None
    columns: np.ndarray | None = None


def parts(features: np.ndarray) -> Iterator[np.ndarray]:
    """Features in blocks of ``ROWS`` images, so that memory holds only a part of a memory-mapped array."""
    return (features[begin : begin + ROWS] for begin in range(0, len(features), ROWS))


def in_blocks(predict: Predict) -> Predict:
    """``predict`` applied to blocks of images."""
    return lambda features: np.concatenate([predict(part) for part in parts(features)])


def fit_linear(training: Training, head: str, valid: np.ndarray, labels: np.ndarray) -> Iterator[tuple[float, Fitted]]:
    """Logistic regression (L-BFGS) or linear SVM (squared hinge loss, each class against the rest) for each C of the grid."""
    width = training.features.shape[1]
    if head == "logreg":
        model = LogisticRegression(max_iter=500, warm_start=True)
    else:
        model = LinearSVC(dual=True, max_iter=2000, random_state=SEED)
    for value in GRIDS[head]:
        model.set_params(C=value / width)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(training.coordinates, training.labels)
        if any(issubclass(one.category, ConvergenceWarning) for one in caught):
            warn(f"{head}: C {value / width:.2g} stopped after {model.max_iter:,} iterations, before it converged.")
        weights, bias = by_class(model.coef_, model.intercept_, model.classes_, training.classes)
        yield value / width, linear(training, training.to_features(weights), bias, head, valid, labels)


def by_class(coef: np.ndarray, intercept: np.ndarray, seen: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's coefficients as weights [M, K] and biases [K]. With two classes it has those of the second only; a class
    without a training image gets the bias -inf, which makes its probability 0."""
    if len(seen) == 2:
        coef, intercept = np.concatenate([np.zeros_like(coef), coef]), np.append(0, intercept)
    weights, bias = np.zeros((coef.shape[1], classes), np.float32), np.full(classes, -np.inf, np.float32)
    weights[:, seen], bias[seen] = coef.T, intercept
    return weights, bias


def linear(
    training: Training, weights: np.ndarray, bias: np.ndarray, head: str, valid: np.ndarray, labels: np.ndarray
) -> Fitted:
    """A linear head. The scores of an SVM are no logarithms of probabilities: their softmax is taken at the temperature that fits
    valid best (Guo et al. 2017), as for the networks."""

    def scores(features: np.ndarray) -> np.ndarray:
        return np.asarray((training.standardise(features) @ weights + bias).astype(np.float64))

    temperature = 1.0
    seen = np.flatnonzero(np.isfinite(bias))
    known = np.isin(labels, seen)
    if head == "svm" and known.any():
        rows = in_blocks(scores)(valid)[known][:, seen]
        temperature = fit_temperature(np.searchsorted(seen, labels[known]), softmax(rows, axis=1))
    predict = in_blocks(lambda features: softmax(scores(features) / temperature, axis=1))
    details = {"temperature": temperature} if head == "svm" else {}
    return Fitted(predict, weights.size + bias.size, np.abs(weights).max(axis=1), details, weights)


def most_telling(training: Training) -> np.ndarray:
    """The F statistic of each feature [D]: variance between the classes over variance within them."""
    found = []
    with warnings.catch_warnings():  # a feature that is the same in all images gives 0 / 0
        warnings.simplefilter("ignore")
        for begin in range(0, training.features.shape[1], 2048):
            found.append(f_classif(training.features[:, begin : begin + 2048], training.labels)[0])
    return np.nan_to_num(np.concatenate(found), nan=0.0, posinf=0.0)


def fit_tree(training: Training, strength: np.ndarray) -> Iterator[tuple[float, Fitted]]:
    """A decision tree for each depth. Of more than ``COLUMNS`` features it is given those with the largest F statistic, because
    the time of a fit grows with their number."""
    columns = np.sort(np.argsort(-strength, kind="stable")[:COLUMNS])
    if len(columns) < len(strength):
        print(
            f"tree: given {len(columns):,} of {len(strength):,} features, those that differ most between the classes (F)"
        )
    values = np.concatenate([part[:, columns] for part in parts(training.features)])
    for depth in GRIDS["tree"]:
        tree = DecisionTreeClassifier(max_depth=int(depth), random_state=SEED).fit(values, training.labels)

        def predict(features: np.ndarray, tree: DecisionTreeClassifier = tree) -> np.ndarray:
            rows = np.zeros((len(features), training.classes))
            rows[:, tree.classes_] = tree.predict_proba(features[:, columns])
            return rows

        own = np.zeros(len(strength))
        own[columns] = tree.feature_importances_
        leaves = tree.get_n_leaves()
        numbers = int(2 * (tree.tree_.node_count - leaves) + leaves * training.classes)
        details = {"features_given": len(columns)}
        yield depth, Fitted(in_blocks(predict), numbers, own, details, tree=tree, columns=columns)


def fit_neighbours(training: Training, strength: np.ndarray, valid: np.ndarray) -> Iterator[tuple[float, Fitted]]:
    """k nearest neighbours by cosine similarity of the standardised features, for each k; a class has its share of the k."""

    def unit(features: np.ndarray) -> np.ndarray:
        values = training.standardise(features)
        return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)

    stored = np.empty(training.features.shape, np.float32)
    for begin, part in zip(range(0, len(stored), ROWS), parts(training.features), strict=True):
        stored[begin : begin + ROWS] = unit(part)
    # On vectors of length 1 the order by distance is that by cosine; scikit-learn's own cosine would copy all of them.
    counts = [int(k) for k in GRIDS["knn"] if k <= len(stored)]
    index = NearestNeighbors(n_neighbors=counts[-1], algorithm="brute").fit(stored)
    one_hot = np.eye(training.classes)[training.labels]
    nearest: dict[int, np.ndarray] = {}  # of valid and test, whose search takes minutes with HOG

    def search(features: np.ndarray) -> np.ndarray:
        found = [index.kneighbors(unit(part), return_distance=False) for part in parts(features)]
        return np.concatenate(found)

    nearest[id(valid)] = search(valid)
    for k in counts:

        def predict(features: np.ndarray, k: int = k) -> np.ndarray:
            found = nearest[id(features)] if id(features) in nearest else search(features)
            return one_hot[found[:, :k]].mean(axis=1)

        yield k, Fitted(predict, stored.size, strength)


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
    answers = stored_features(source, data.name, "test", test) if test else None
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
    linear = images * min(width, images) if width > WIDE else images * width
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


def available_memory() -> float:
    """GiB that a process can allocate: what the kernel calls available, within the limit of the control group; infinity if
    neither is known."""
    found = math.inf
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return found if limit == "max" else min(found, (int(limit) - int(used)) / 2**30)
    except (OSError, StopIteration, ValueError):
        return found


@contextmanager
def noted(mark: Path, name: str) -> Iterator[None]:
    """Keep a file while a head is fitted, so that the next start can say that the last one was interrupted."""
    if mark.exists():
        print(f"{name}: its fit was interrupted; this step starts again, on the stored features")
    write_whole(mark, "")
    yield
    mark.unlink(missing_ok=True)


def choose(
    training: Training, head: str, valid: np.ndarray, labels: np.ndarray, strength: np.ndarray
) -> tuple[float, Fitted, dict[str, float]]:
    """The setting with the best accuracy on valid, the first of equals, with its head and the accuracies of the whole grid."""
    if head == "tree":
        candidates = fit_tree(training, strength)
    elif head == "knn":
        candidates = fit_neighbours(training, strength, valid)
    else:
        candidates = fit_linear(training, head, valid, labels)
    grid: dict[str, float] = {}
    best: tuple[float, float, Fitted] | None = None
    began = time.perf_counter()
    for value, fitted in candidates:
        accuracy = float((fitted.predict(valid).argmax(axis=1) == labels).mean())
        grid[f"{value:.3g}"] = accuracy
        now = time.perf_counter()
        print(
            f"{head}: {SETTINGS[head]} {value:.3g}: {percent(accuracy)} on valid, {duration(now - began)}", flush=True
        )
        began = now
        if best is None or accuracy > best[0]:
            best = accuracy, value, fitted
    assert best is not None
    end = ", at an end of the grid" if f"{best[1]:.3g}" in (next(iter(grid)), next(reversed(grid))) else ""
    print(f"{head}: {SETTINGS[head]} {best[1]:.3g}, the best on valid.csv{end}")
    return best[1], best[2], grid


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
