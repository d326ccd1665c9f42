"""What a study writes about a system that it trained or fitted, so that ``studies.compare`` finds all systems alike.

A system is anything that predicts the classes: a network, or features with a classical head. Its name is part of file names,
and begins with what computes its features: ``hog_logreg``, ``resnet18_knn``, ``efficientnet_lite0_frozen``, ``…_tuned``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lab.data.lists import DataSet, ImageList, list_digest, read_list
from lab.evaluation.valid_table import write_predictions
from lab.figures.confusion import draw_confusion
from lab.files import write_whole
from lab.hardware import Hardware, processor
from lab.kaggle.submissions import submission_folder, write_submission
from models import catalog

TEST_LIST = "resnet_18_test"  # the test list of every system that is no ResNet of the lab


@dataclass(frozen=True, kw_only=True)
class System:
    """A system, as ``run_<name>.json`` describes it.

    Attributes:
        name: in file names; letters, digits and underscores.
        title: in figures and texts.
        base: what computes its features: ``hog``, a model of the catalogue, or a network with ImageNet weights.
        size: side of the input image, px.
        settings: everything that was chosen for it.
        parameters: number of parameters, those of the base included.
        macs: multiply-accumulates for one image; None if they are not counted, as for HOG.
        training_flop: floating-point operations of the training: 6 for each multiply-accumulate of a layer that is trained, 2 of
            a frozen one, for each image seen; None if they are not counted. If a network of ours computes the features, its
            training is included.
        seconds: duration of the training or of the fit, features included, and the training of a network of ours.
    """

    name: str
    title: str
    base: str
    size: int
    settings: dict[str, Any]
    parameters: int
    macs: int | None
    training_flop: float | None
    seconds: float


def write_system(
    system: System, data: DataSet, hardware: Hardware, valid: ImageList, probabilities: np.ndarray, report: Path
) -> None:
    """Write ``run_<name>.json``, ``valid_<name>.csv`` and ``confusion_<name>.png`` into ``report``, and print the accuracy.

    ``probabilities`` [N, K] are those of the images of ``valid``.
    """
    place = {"data": data.name, "classes": data.classes, "lists": list_digest(data)}
    machine = {"device": hardware.describe(), "processor": processor(), "threads": torch.get_num_threads()}
    about = asdict(system) | place | machine | {"torch": str(torch.__version__)}
    write_whole(report / f"run_{system.name}.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    write_predictions(report / f"valid_{system.name}.csv", valid, probabilities)
    title, file = f"{system.title} on {data.name}", report / f"confusion_{system.name}.png"
    found = draw_confusion(valid.labels, probabilities, data.classes, title, file)
    print(f"{system.name}: {found} of valid.csv", flush=True)


def test_images(data: DataSet) -> ImageList | None:
    """The test list that systems predict for a submission; None if the data set has none."""
    exists = (data.folder / f"{TEST_LIST}.csv").is_file()
    return read_list(data, TEST_LIST, labelled=False) if exists else None


def write_answers(system: System, data: DataSet, images: ImageList, predictions: np.ndarray) -> None:
    """Write the submission ``csv/<data>/submission_<name>.csv``; ``predictions`` [N] are the classes of the test ``images``."""
    path = submission_folder(data) / f"submission_{system.name}.csv"
    write_submission(path, images, predictions, data)
    print(f"{system.name}: {images.csv.name} → {path}, {len(images):,} rows", flush=True)


def count(model: str, classes: int, size: int) -> tuple[int, int]:
    """The parameters of a model of the catalogue, and its multiply-accumulates for one image of ``size`` px."""
    with torch.device("meta"):  # computes shapes only
        return count_network(catalog.build(model, classes, size), size)[:2]


def training_cost(model: str, classes: int, sizes: Iterable[float], images: int) -> float:
    """Floating-point operations of a training by train.py: ``sizes`` are the input sizes of its epochs, px, each over ``images``.

    Of the 6 for a multiply-accumulate, 4 are of the backward pass: the gradients of the inputs and of the weights.
    """
    epochs = Counter(int(size) for size in sizes)
    return float(sum(6 * count(model, classes, size)[1] * images * number for size, number in epochs.items()))


def count_network(network: nn.Module, size: int, frozen: Iterable[str] = ()) -> tuple[int, int, int]:
    """The parameters of a network, its multiply-accumulates for one image [3, size, size], and those of its ``frozen`` layers,
    which are given by name."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # With a gradient and by plain attention, because the counter does not know the fused kernels of inference.
    image = torch.zeros(1, 3, size, size, device=next(network.parameters()).device, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    counts, kinds = counter.get_flop_counts(), (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    names = [f"{type(network).__name__}.{name}" for name in frozen if isinstance(network.get_submodule(name), kinds)]
    still = sum(sum(counts.get(name, {}).values()) for name in names)
    return parameters, counter.get_total_flops() // 2, still // 2  # it counts a multiplication and an addition as two
