"""How accuracy and calibration change when images do: blur, noise, JPEG, stain, brightness, angle and scale.

    python -m studies.robustness --data csv/lab3                           # every trained ResNet, 500 images of valid.csv
    python -m studies.robustness --data csv/lab3 --model resnet18 --images 1599

Raw images are changed by three strengths each, then cropped and predicted as predict.py does, with the checkpoint's temperature
(after Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions, arXiv 1903.12261, §3). Writes
into report/<data>/: robustness.csv and robustness.png, or robustness_<model>.* for a single model.
"""

from __future__ import annotations

import argparse

from lab.options import GivenParser, add_machine, add_places, add_quiet, add_report, add_trained_model, parse, positive


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = GivenParser(description="Accuracy and calibration of the trained models on changed images.")
    add_places(parser)
    add_trained_model(parser)
    help_images = "of valid.csv, evenly spaced in the list (default: 500, or all of a shorter list)"
    parser.add_argument("--images", type=positive, default=500, help=help_images)
    add_report(parser)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before torch is imported, and choose the data set if none is given."""
    from lab.checkpoints.headers import check_chosen, chosen_data
    from lab.data.lists import data_name, find_folder

    args.data = chosen_data(args.data, "data" in args.given, args.weights)
    folder = find_folder(args.data, args.root, ["valid"])
    check_chosen(args.weights / data_name(folder), args.model)


ARGS = parse(arguments, __name__, check_paths)

import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from lab.checkpoints.checkpoint import check_data
from lab.checkpoints.ensembles import load_members
from lab.checkpoints.headers import chosen_models
from lab.data.augmentation import network_input
from lab.data.batches import EVALUATION_BATCH, stored_batches
from lab.data.images import read_image
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.data.preprocessing import Preprocessing, cell_mask
from lab.errors import run
from lab.evaluation.calibration import calibration
from lab.evaluation.confidence import calibrated
from lab.evaluation.inference import decide_d4, predict_members
from lab.evaluation.metrics import wilson
from lab.figures.robustness import robustness_figure
from lab.figures.style import save
from lab.files import write_whole
from lab.hardware import Hardware, choose_hardware
from lab.text import percent
from lab.threads import decoding_threads

Changed = Callable[[np.ndarray, float, int], np.ndarray]  # image uint8 [H, W, 3], strength, seed → an image


def blur(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Gaussian blur, sigma in px of the raw image: out of focus."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Independent Gaussian noise of each value, sigma of 255: a dark camera."""
    return to_uint8(image + np.random.default_rng(seed).normal(0, sigma, image.shape))


def jpeg(image: np.ndarray, quality: float, seed: int) -> np.ndarray:
    """Compressed as JPEG of a quality of 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
    return np.array(Image.open(buffer).convert("RGB"))


def stain(image: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Optical density of red times 1 + share, of blue divided by it: another mixture of dyes (Beer-Lambert law, as in
    lab/data/augmentation.py, where each channel varies by 12 %)."""
    return to_uint8(255 * (image / 255) ** np.array([1 + share, 1, 1 / (1 + share)]))


def brightness(image: np.ndarray, gain: float, seed: int) -> np.ndarray:
    """All values times a gain: another lamp."""
    return to_uint8(image * gain)


def angle(image: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """Turned around the centre."""
    height, width = image.shape[:2]
    edge = math.ceil(
        0.25 * max(height, width)
    )  # half the diagonal is 0.21 times a square's side longer than half the side
    padded = Image.fromarray(continued(image, (edge, edge), (edge, edge)))
    turned = np.array(padded.rotate(degrees, Image.Resampling.BICUBIC))
    return turned[edge : edge + height, edge : edge + width]


def scale(image: np.ndarray, factor: float, seed: int) -> np.ndarray:
    """Enlarged or reduced around the centre; a reduced image is continued to its former sides."""
    height, width = image.shape[:2]
    sides = max(1, round(width * factor)), max(1, round(height * factor))
    resized = np.array(Image.fromarray(image).resize(sides, Image.Resampling.BICUBIC))
    missing = [max(0, side - new) for side, new in zip((height, width), resized.shape[:2], strict=True)]
    return continued(resized, *((gap // 2, gap - gap // 2) for gap in missing))


def continued(image: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """An image with so many more rows above and below and columns left and right: black around a cell on black, else the image's
    reflection."""
    mode = "symmetric" if cell_mask(image) is None else "constant"
    return np.pad(image, (rows, columns, (0, 0)), mode)  # type: ignore[call-overload]


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Values rounded and limited to 0…255, and as uint8."""
    return values.round().clip(0, 255).astype(np.uint8)


class Change(NamedTuple):
    """A change of images: its title with the unit of the strengths, and three strengths from weak to strong."""

    title: str
    strengths: tuple[float, float, float]
    change: Changed


CHANGES = {
    "blur": Change("blur, σ in px", (1, 2, 4), blur),
    "noise": Change("noise, σ of 255", (8, 16, 32), noise),
    "jpeg": Change("JPEG, quality", (50, 20, 8), jpeg),
    "stain": Change("stain, density of red, 1/blue", (0.15, 0.3, 0.6), stain),
    "brightness": Change("brightness, gain", (0.8, 0.6, 0.4), brightness),
    "angle": Change("angle, degrees", (15, 30, 45), angle),
    "scale": Change("scale, factor", (0.8, 1.25, 1.5), scale),
}


def changed(image: np.ndarray, name: str, strength: float, seed: int) -> np.ndarray:
    """A raw image with one of ``CHANGES``. Around a cell on black it stays black, as if it had been segmented afterwards."""
    result = CHANGES[name].change(image, strength, seed)
    mask = cell_mask(image)
    if mask is not None and name not in ("angle", "scale"):
        result = np.where(mask[..., None], result, 0).astype(np.uint8)
    return result


def main(args: argparse.Namespace) -> None:
    """Measure each model on unchanged and on changed images, then write table and figure."""
    data = read_data_set(args.data, args.root)
    valid = some(read_list(data, "valid", labelled=True), args.images)
    models = chosen_models(args.weights / data.name, args.model)
    hardware = choose_hardware(args.device, args.precision)
    print(f"robustness: {len(valid):,} images of {valid.csv.name}, {len(CHANGES)} changes with three strengths each")
    tables = [
        measure(args.weights / data.name / model / "best.safetensors", model, data, valid, args.d4, hardware)
        for model in models
    ]
    table, report = pd.concat(tables, ignore_index=True), args.report / data.name
    stem = "robustness" if args.model == "all" else f"robustness_{args.model}"
    write_whole(report / f"{stem}.csv", table.to_csv(index=False, float_format="%.6g"))
    titles = {name: change.title for name, change in CHANGES.items()}
    save(robustness_figure(table, titles, f"Changed images of {data.name}"), report / f"{stem}.png")
    print(f"written to {report}: {stem}.csv, {stem}.png")


def some(images: ImageList, most: int) -> ImageList:
    """At most so many images of a list, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int))
    ids, paths = ([values[index] for index in chosen] for values in (images.ids, images.paths))
    return ImageList(images.csv, ids, paths, images.labels[chosen], [images.lines[index] for index in chosen])


def measure(path: Path, model: str, data: DataSet, images: ImageList, d4: str, hardware: Hardware) -> pd.DataFrame:
    """A row for the unchanged images and for each strength of each change, of the checkpoint ``path``."""
    members = load_members(path, model)
    about = members[0][1]
    check_data(path, about, data)
    for network, _ in members:
        hardware.place(network)
    averaged = decide_d4(about, d4)
    # The store reports images that cannot be decoded, all at once.
    stored_batches(data.name, "robustness", images, about.preprocessing, hardware.device)
    rows = []
    for name, strength in [("none", 0.0)] + [(name, value) for name, row in CHANGES.items() for value in row.strengths]:

        def feed(preprocessing: Preprocessing, name: str = name, strength: float = strength) -> Feed:
            return Feed(images, preprocessing, name, strength, hardware.device)

        title = f"{model}, {name} {strength:g}" if name != "none" else f"{model}, unchanged"
        raw = predict_members(members, feed, hardware, averaged, title)
        probabilities = calibrated(raw, about, averaged)
        found = calibration(images.labels, probabilities)
        hits = int((probabilities.argmax(axis=1) == images.labels).sum())
        low, high = wilson(hits, len(images))
        values = {"images": len(images), "accuracy": found.accuracy, "low": low, "high": high}
        values |= {"confidence": found.confidence, "calibration_error": found.error}
        rows.append({"model": model, "change": name, "strength": strength, "d4": "yes" if averaged else "no", **values})
        print(f"{title}: {percent(found.accuracy)}, expected calibration error {found.error:.4f}", flush=True)
    return pd.DataFrame(rows)


class Feed:
    """Batches of changed images for the network, of a list in its order."""

    def __init__(
        self, images: ImageList, preprocessing: Preprocessing, name: str, strength: float, device: torch.device
    ) -> None:
        self.images, self.preprocessing, self.device = images, preprocessing, device
        self.name, self.strength = name, strength

    def __len__(self) -> int:
        return -(-len(self.images) // EVALUATION_BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        with ThreadPoolExecutor(decoding_threads()) as pool:
            for begin in range(0, len(self.images), EVALUATION_BATCH):
                order = np.arange(begin, min(begin + EVALUATION_BATCH, len(self.images)))
                windows = torch.from_numpy(np.stack(list(pool.map(self.window, order)))).to(self.device)
                yield network_input(windows, self.preprocessing), torch.from_numpy(self.images.labels[order]), order

    def window(self, index: int) -> np.ndarray:
        """The window of a changed image, uint8 [source, source, 3]."""
        image = read_image(self.images.paths[index], self.preprocessing.white)
        if self.name != "none":
            image = changed(image, self.name, self.strength, seed=int(index))
        return self.preprocessing.crop(image)


if __name__ == "__main__":
    run(main, ARGS)
