"""Question a trained network: what its layers compute, which pixels speak for a class, and whether such pictures mean anything.

    python -m studies.explain --data pbc8 --model resnet18                              # the worst predictions of valid.csv
    python -m studies.explain --data pbc8 --model resnet18 --queries confused --classes all
    python -m studies.explain --data all4 --model resnet18 --no-images                  # only what shows no image

Explains images of valid.csv; images that a method compares with come from train.csv. Explained is the network itself, without D4
averaging and temperature. Writes into report/<data>/: explain_<model>.html, a page that needs no network; explain_<model>_*.png;
explain_<model>_verdicts.csv and explain_<model>_curves.csv. All random numbers have fixed seeds.
"""

from __future__ import annotations

import argparse

from lab.errors import UserError
from lab.options import add_machine, add_places, add_quiet, add_report, parse, positive
from models import catalog
from studies.partitions import ALL_TITLES

KINDS = ("worst", "uncertain", "confused", "random")


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Question a trained network.")
    parser.add_argument("--model", required=True, choices=catalog.names(), metavar="MODEL", help="a trained model")
    help_queries = (
        "images of valid.csv: worst (lowest probability of the true class), uncertain, confused (the most confused "
    )
    help_queries += "pairs of classes), random, or paths as in the list (default: worst)"
    parser.add_argument("--queries", nargs="+", default=["worst"], metavar="IMAGE", help=help_queries)
    parser.add_argument(
        "--count", type=positive, default=6, help="images to explain, unless they are named (default: 6)"
    )
    help_classes = "classes to explain: predicted, true, all, or names (default: predicted true)"
    parser.add_argument("--classes", nargs="+", default=["predicted", "true"], metavar="CLASS", help=help_classes)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*ALL_TITLES],
        metavar="METHOD",
        help=f"of {', '.join(ALL_TITLES)} (default: all)",
    )
    parser.add_argument(
        "--layer", help="layer whose feature maps are drawn (default: the shallowest for Grad-CAM, layer2 in a ResNet)"
    )
    parser.add_argument("--maps", type=positive, default=32, help="feature maps to draw, the first ones (default: 32)")
    help_check = "images of valid.csv on which the methods are tested, 0 for no test (default: 30)"
    parser.add_argument("--check", type=int, default=30, metavar="N", help=help_check)
    parser.add_argument("--no-images", action="store_true", help="draw nothing that shows an image")
    add_places(parser)
    add_report(parser)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path, number or missing package before torch is imported."""
    from lab.checkpoints.headers import check_chosen
    from lab.data.lists import data_name, find_folder
    from studies.partitions import NAME, missing_packages

    if args.check < 0 or args.check == 1:
        raise UserError(f"--check {args.check}: an interval needs 2 images or more; 0 leaves the test out.")
    check_chosen(args.weights / data_name(find_folder(args.data, args.root, ["train", "valid"])), args.model)
    if NAME in (args.methods or []) and (missing := missing_packages()):
        raise UserError(
            f"{NAME} needs {' and '.join(missing)}: `pip install -r requirements-extras.txt -c constraints.txt`."
        )


ARGS = parse(arguments, __name__, check_paths)

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.checkpoints.checkpoint import check_data, load_network
from lab.checkpoints.ensembles import others
from lab.data.augmentation import network_input
from lab.data.batches import Batches, stored_batches
from lab.data.lists import DataSet, ImageList, read_data_set, read_lists
from lab.errors import run
from lab.evaluation.attribution import empty_colour
from lab.evaluation.gradcam import stages_to_try
from lab.evaluation.inference import predict
from lab.evaluation.mistakes import confusions
from lab.figures.attribution import Row, attributions_figure, strength, tiles_figure, trust_figure
from lab.files import check_writable
from lab.hardware import choose_hardware
from lab.terminal import progress
from lab.text import counted, percent, shown
from studies import faithfulness
from studies.pages import Output, Section, page
from studies.partitions import NAME, PartitionExplainer, missing_packages

BACKGROUND = 16  # training images
FILTERS = 64  # of the first convolution, at most
SEED = 0
TRUST = (
    "A method passes if its maps change when all weights of the network are shuffled (rank correlation below "
    f"{faithfulness.MOST_ALIKE}, of the values or of their absolute values), and if the probability of the predicted class "
    "falls faster when the pixels that it marks are deleted than when random ones are: the 95 % interval of the difference of "
    "the areas under the curves excludes 0. That is little: deletion from the centre outwards, where most cells are, may do as "
    "well.",
    f"Deleted squares, {faithfulness.GRID} × {faithfulness.GRID} of them, get the mean colour of the training images, or black "
    "in images of cells on black. Insertion starts from the blurred image.",
    "In images with a black background, the cell is everything that is not black. In smears it is the nuclei: of three groups of "
    f"the green channel, the darkest. Its border is {200 * faithfulness.BORDER:.0f} % of the side wide.",
)


@dataclass(frozen=True)
class Study:
    """A trained network, what explains it, and its predictions [N, K] for the ``images`` of valid.csv."""

    model: str
    title: str
    data: DataSet
    images: ImageList
    batches: Batches
    probabilities: np.ndarray
    explainer: PartitionExplainer
    methods: list[str]

    def inputs(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Images of valid.csv as the network's input, float32 [n, 3, S, S], normalised."""
        store = self.batches.store
        windows = torch.from_numpy(store.images[store.rows[np.asarray(indices)]])
        return network_input(windows, self.explainer.preprocessing).to(self.explainer.hardware.device)


def main(args: argparse.Namespace) -> None:
    """Test the methods, explain the chosen images, and draw filters and feature maps."""
    data = read_data_set(args.data, args.root)
    out = Output(args.report / data.name, f"explain_{args.model}", not args.no_images)
    check_writable(out.folder)
    study = open_study(args, data)
    if args.check > 0 and len(study.images) < 2:
        raise UserError(f"{study.images.csv}: the test of the methods needs 2 images or more; --check 0 leaves it out.")
    chosen = choose(args.queries, study, args.count)
    classes = [classes_of(args.classes, study, index) for index in chosen]
    layer = layer_of(args.layer, study)
    out.remove_old("attributions.png", "maps.png", "filters.png", "trust.png", "verdicts.csv", "curves.csv")
    sections = [trust_section(study, args.check, out)] if args.check else []
    if out.pictures:
        sections.append(attributions_section(study, chosen, classes, out))
    sections += filters_section(study, out)
    if out.pictures and layer:
        sections.append(maps_section(study, layer, args.maps, chosen[0], out))
    accuracy = float((study.probabilities.argmax(axis=1) == study.images.labels).mean())
    lead = f"Accuracy on valid.csv {percent(accuracy)}, without D4 averaging; input {study.explainer.preprocessing.size} px. "
    lead += "Grad-CAM is averaged over the eight flips and turns; the other maps are of the image as it is."
    out.write("html", page(f"What the network sees: {study.title}", lead, sections, {}))
    print(f"written to {out.folder}: {', '.join(out.files)}")


def open_study(args: argparse.Namespace, data: DataSet) -> Study:
    """Load the network, predict valid.csv, and find out which methods can explain this network."""
    lists = read_lists(data, ("train", "valid"))
    if args.precision == "auto":
        print("attributions: in fp32, because they add up small differences")
    hardware = choose_hardware(args.device, "fp32" if args.precision == "auto" else args.precision)
    path = args.weights / data.name / args.model / "best.safetensors"
    network, about = load_network(path, args.model)
    check_data(path, about, data)
    if members := others(path.parent):
        print(f"{args.model}: explains {path.name} alone, the best of {len(members) + 1} networks")
    hardware.place(network.eval())
    batches = {
        name: stored_batches(data.name, name, images, about.preprocessing, hardware.device)
        for name, images in lists.items()
    }
    probabilities = predict(network, batches["valid"], hardware, title=f"{args.model} on valid")
    background = torch.cat([images for images, _, _ in batches["train"].sample(BACKGROUND)])
    row, size = catalog.find(args.model), about.preprocessing.size
    stages = stages_to_try(row.stages, size)
    cut = about.preprocessing
    explainer = PartitionExplainer(network, hardware, stages, background, empty_colour(cut), preprocessing=cut)
    methods, title = available(args.methods, explainer), f"{row.title} on {data.name}"
    if "gradcam" in methods:
        print(
            f"Grad-CAM: at {', else '.join(stages)}: the deepest layer with evidence, of those with 4 × 4 values or more"
        )
    return Study(args.model, title, data, lists["valid"], batches["valid"], probabilities, explainer, methods)


def available(asked: list[str] | None, explainer: PartitionExplainer) -> list[str]:
    """The methods to use. Prints which are left out, and raises :class:`UserError` if one of these was asked for."""
    missing = explainer.missing()
    if packages := missing_packages():
        install = "pip install -r requirements-extras.txt -c constraints.txt"
        missing[NAME] = f"it needs {' and '.join(packages)}, `{install}`"
    for method in asked or []:
        if method in missing:
            raise UserError(f"--methods {method}: {missing[method]}.")
    if asked:
        return [*dict.fromkeys(asked)]
    for method, reason in missing.items():
        print(f"{ALL_TITLES[method]}: left out, {reason}")
    return [method for method in ALL_TITLES if method not in missing]


# ---- which images and classes ----------------------------------------------------------------------------------------------


def choose(asked: list[str], study: Study, count: int) -> list[int]:
    """The indices of the images to explain. Raises :class:`UserError` for a path that is not in valid.csv."""
    probabilities, labels, ids = study.probabilities, study.images.labels, study.images.ids
    kind = asked[0] if len(asked) == 1 else ""
    if kind == "worst":
        order = np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable")
    elif kind == "uncertain":
        ranked = np.sort(probabilities, axis=1)
        order = np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")
    elif kind == "confused":
        order = confused(probabilities, labels, count)
    elif kind == "random":
        order = np.random.default_rng(SEED).permutation(len(labels))
    else:
        for name in asked:
            if name not in ids:
                kinds = ", ".join(KINDS)
                raise UserError(
                    f"--queries {shown(name)}: valid.csv has no such path; write it as in the list, or one of {kinds}."
                )
        return [ids.index(name) for name in asked]
    return [int(index) for index in order[:count]]


def confused(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """An image of each of the most confused pairs of classes, that with the most confident wrong prediction, then the next of
    each; at least one index."""
    predicted = probabilities.argmax(axis=1)
    pairs = confusions({"": (labels, probabilities)}, probabilities.shape[1], count)
    columns = []
    for true, wrong, _, _ in pairs:
        found = np.flatnonzero((labels == true) & (predicted == wrong))
        columns.append(found[np.argsort(-probabilities[found, wrong], kind="stable")])
    if not columns:
        raise UserError("--queries confused: every image of valid.csv is predicted rightly; try --queries uncertain.")
    longest = max(map(len, columns))
    return np.array([column[turn] for turn in range(longest) for column in columns if turn < len(column)])


def classes_of(asked: list[str], study: Study, index: int) -> list[int]:
    """The classes to explain of an image, without repetitions; a class may be called "all". Raises :class:`UserError` for an
    unknown class."""
    names = study.data.classes
    special = {
        "predicted": [int(study.probabilities[index].argmax())],
        "true": [int(study.images.labels[index])],
        "all": [*range(len(names))],
    }
    found: list[int] = []
    for name in asked:
        if name not in special and name not in names:
            listed = ", ".join(dict.fromkeys([*special, *names]))
            raise UserError(f"--classes {shown(name)}: expected some of {listed}.")
        found += [names.index(name)] if name in names else special[name]
    return [*dict.fromkeys(found)]


# ---- sections of the page --------------------------------------------------------------------------------------------------


def trust_section(study: Study, count: int, out: Output) -> Section:
    """Test the methods on random images of valid.csv."""
    print("test of the methods; if it is interrupted, it starts again", flush=True)
    table, curves = measure(study, count)
    out.table("verdicts", table)
    out.table("curves", faithfulness.curve_table(curves))
    titled = {ALL_TITLES.get(method, method): drawn for method, drawn in curves.items()}
    rows = {ALL_TITLES[row["method"]]: row for row in table.to_dict("records")}
    area = [table[f"area_{place}"][0] for place in faithfulness.PLACES]
    figure = trust_figure(
        {title: [row[f"correlation_{number}"] for number in (1, 2, 3)] for title, row in rows.items()},
        faithfulness.LEVELS,
        faithfulness.MOST_ALIKE,
        titled,
        faithfulness.PLACES,
        {title: [row[place] for place in faithfulness.PLACES] for title, row in rows.items()}
        | {"area of the image": area},
        f"Attributions of {study.title}, mean over {counted(int(table['images'][0]), 'image')}",
    )
    picture = out.picture("trust", figure, "likeness to randomised networks, places, deletion and insertion")
    points = [(f"{title} {'passes' if row['passes'] else 'fails'}:", reason(row)) for title, row in rows.items()]
    for text, why in points:
        print(text, why)
    return Section("Do the pictures mean anything?", TRUST, points, pictures=[picture])


def reason(row: dict[Any, Any]) -> str:
    """What was measured of a method, in a sentence."""
    parts = [
        f"correlation with the randomised network {row['correlation_3']:.2f} ({counted(row['compared'], 'image')})"
    ]
    for name in ("deletion", "insertion"):
        gain, low, high = (row[f"{name}_{part}"] for part in ("gain", "low", "high"))
        parts.append(f"{name} better than at random by {gain:.3f} ({low:.3f} to {high:.3f})")
    return "; ".join(parts) + "."


def measure(study: Study, count: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The verdicts on ``count`` random images of valid.csv, and the mean curves [2, points] of each method and control."""
    rng = np.random.default_rng(SEED)
    indices = np.sort(rng.permutation(len(study.images))[:count])
    labels = study.probabilities[indices].argmax(axis=1)
    cases = [(study.inputs([index]), int(label)) for index, label in zip(indices, labels, strict=True)]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in (*study.methods, "random", "centre")}
    fallen: dict[str, list[np.ndarray]] = {name: [] for name in (*study.methods, "area")}
    own: dict[str, list[np.ndarray]] = {method: [] for method in study.methods}
    for image, label in progress(cases, "attributing and deleting", len(cases), lines=True):
        where = faithfulness.places(faithfulness.nucleus(study.explainer.pixels(image)))
        unknown = np.full(3, np.nan)
        fallen["area"].append(unknown if where is None else where.mean(axis=(1, 2)))
        for name, curve in faithfulness.controls(study.explainer, image, label, rng).items():
            drawn[name].append(curve)
        for method in study.methods:
            found = study.explainer.attribute(method, image, label)
            own[method].append(found)
            drawn[method].append(faithfulness.curves(study.explainer, image, label, faithfulness.order_of(found)))
            fallen[method].append(unknown if where is None else faithfulness.shares(found, where))
    alike = {method: np.full((len(cases), len(faithfulness.LEVELS)), np.nan) for method in study.methods}
    background = study.explainer.background
    assert background is not None
    for number, level in enumerate(faithfulness.LEVELS):
        network = faithfulness.randomised(study.explainer.network, level, background)
        other = replace(study.explainer, network=network)
        for row, (image, label) in enumerate(progress(cases, f"with {level} randomised", len(cases), lines=True)):
            for method in study.methods:
                alike[method][row, number] = faithfulness.likeness(
                    own[method][row], other.attribute(method, image, label)
                )
    curves, shares = ({name: np.array(values) for name, values in one.items()} for one in (drawn, fallen))
    table = faithfulness.verdicts(alike, curves, shares, shares["area"])
    return table, {name: values.mean(axis=0) for name, values in curves.items()}


def attributions_section(study: Study, chosen: list[int], classes: list[list[int]], out: Output) -> Section:
    """The chosen images by every method, for every class that is asked for."""
    rows = []
    print(f"attributions: {counted(len(chosen), 'image')}, {counted(sum(map(len, classes)), 'row')}", flush=True)
    for index, labels in zip(progress(chosen, "attributing", len(chosen), lines=True), classes, strict=True):
        image = study.inputs([index])
        pixels = study.explainer.pixels(image)
        maps = [[study.explainer.attribute(method, image, label) for method in study.methods] for label in labels]
        strengths = [strength([line[number] for line in maps]) for number in range(len(study.methods))]
        mask = faithfulness.nucleus(pixels)
        outline = mask if faithfulness.places(mask) is not None else None
        for label, line in zip(labels, maps, strict=True):
            rows.append(Row(caption(study, index, label), pixels, outline, line, strengths))
    figure = attributions_figure(
        rows, [ALL_TITLES[method] for method in study.methods], f"Attributions of {study.title}"
    )
    text = (
        "Red is evidence for the class, blue evidence against it; Grad-CAM shows only evidence for it. All classes of an image "
        "share the colours of a method. The line surrounds the cell or the nuclei."
    )
    return Section(
        "Which pixels speak for a class", [text], pictures=[out.picture("attributions", figure, "attribution maps")]
    )


def caption(study: Study, index: int, label: int) -> str:
    """An image, the class that is explained, and its probability."""
    shares = study.probabilities[index]
    kind = "true, " if label == study.images.labels[index] else "predicted, " if label == shares.argmax() else ""
    name = PurePosixPath(study.images.ids[index]).name
    return f"{shown(name, 24)}\nfor {shown(study.data.classes[label], 18)}\n{kind}{percent(float(shares[label]), 1)}"


def filters_section(study: Study, out: Output) -> list[Section]:
    """The filters of the first convolution."""
    name, first = first_convolution(study.explainer.network)
    if first is None:
        print("filters: left out, the network has no convolution")
        return []
    filters = first.weight.detach().float().cpu()
    scaled = 0.5 + 0.5 * filters / filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    tiles = scaled.permute(0, 2, 3, 1).numpy()[:FILTERS]
    figure = tiles_figure(tiles, f"Filters of {name} of {study.title}")
    text = (
        f"{name}: {len(tiles)} of {len(filters)} filters of {filters.shape[2]} × {filters.shape[3]} × 3. Grey is 0, and each is "
        "scaled to its largest weight."
    )
    return [Section("Filters", [text], pictures=[out.picture("filters", figure, "filters of the first convolution")])]


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d | None]:
    """The name of the first convolution, and the layer itself; None if there is none."""
    found = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return next(found, ("", None))


def layer_of(asked: str | None, study: Study) -> str:
    """The layer whose feature maps are drawn: by default the shallowest of those of Grad-CAM, or else the first convolution;
    empty if there is none. Raises :class:`UserError` for a layer that has no feature maps."""
    layer = asked or (list(catalog.find(study.model).stages)[-1:] or [first_convolution(study.explainer.network)[0]])[0]
    if layer:
        feature_maps(study.explainer.network, layer, study.inputs([0]))
    else:
        print("feature maps: left out, the network has no convolution")
    return layer


def maps_section(study: Study, layer: str, most: int, index: int, out: Output) -> Section:
    """The feature maps after a layer for an image."""
    maps = feature_maps(study.explainer.network, layer, study.inputs([index]))
    figure = tiles_figure(maps[:most], f"Feature maps after {layer} of {study.title}", "activation")
    text = (
        f"{layer}: the first {min(most, len(maps))} of {counted(len(maps), 'feature map')}, {maps.shape[1]} × {maps.shape[2]} "
        f"values each, for {study.images.ids[index]}."
    )
    return Section("Feature maps", [text], pictures=[out.picture("maps", figure, "feature maps of a layer")])


@torch.no_grad()
def feature_maps(network: nn.Module, layer: str, image: Tensor) -> np.ndarray:
    """The output [C, h, w] of a layer for an image [1, 3, S, S]; a transformer's tokens are put where their patches are. Raises
    :class:`UserError` if there is no such layer, or if its output is no map."""
    modules = dict(network.named_modules())
    if not layer or layer not in modules:
        known = ", ".join(name for name in modules if name and name.count(".") < 2)
        raise UserError(f"--layer {shown(layer)}: the network has no such layer; some are {shown(known, 600)}.")
    found: list[Tensor] = []
    # Cloned, because a ReLU after it may work in place.
    with modules[layer].register_forward_hook(lambda _module, _inputs, output: found.append(output.clone())):
        network(image)
    output = found[0][0].float().cpu()
    side = math.isqrt(len(output) - 1)
    if output.ndim == 2 and side**2 == len(output) - 1:  # the class token and a square of patches
        output = output[1:].T.unflatten(1, (side, side))
    if output.ndim != 3:
        raise UserError(f"--layer {layer}: its output {list(output.shape)} is no map; name a layer before the pooling.")
    return np.asarray(output)


if __name__ == "__main__":
    run(main, ARGS)
