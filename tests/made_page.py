"""Shared by the tests of the page: thin networks with a ResNet's stages, and a page that is being served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.checkpoints.ensembles import load_members
from lab.data.lists import read_data_set, read_list
from lab.evaluation.metrics import metrics_table, write_metrics
from lab.hardware import Hardware
from lab.page.answers import Content
from lab.page.content import prepare, read_results
from models import catalog
from resnet.resnet import BasicBlock
from tests.made import DEPTHS, Thin, about, cell, inside, make_data, save_thin, write_systems

Served = tuple[str, Content]  # the address of a page and its content
CPU = Hardware(torch.device("cpu"), "fp32")
HISTORY = [
    {"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": 0.6, "train_loss": 0.7, "valid_loss": 0.65},
    {"epoch": 2, "train_accuracy": 0.7, "valid_accuracy": 0.8, "train_loss": 0.5, "valid_loss": 0.45},
    {"epoch": 3, "train_accuracy": 0.9, "valid_accuracy": 0.75, "train_loss": 0.3, "valid_loss": 0.5},
]


class Staged(Thin):
    """A thin network with the four stages; for 32 px the feature maps of the last two have 4 × 4 values."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        self.norm = nn.BatchNorm1d(2 * width)
        self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(2 * width, 2 * width, stride)) for stride in (1, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        return self.fc(self.norm(self.layer4(self.layer3(self.layer2(x))).mean((2, 3))))


def staged(name: str, classes: int = 2, size: int = 32) -> Staged:
    """Replaces ``catalog.build``: a width for each depth, and the same weights every time. The statistics of the norms come from
    some cells, so that predictions differ between cells."""
    torch.manual_seed(catalog.find(name).depth)
    network = Staged(classes, {"resnet18": 4, "resnet50": 6, "resnet152": 8}[name])
    rng = np.random.default_rng(0)
    cells = np.stack([cell(rng, index % 2)[8:40, 8:40] for index in range(32)])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network((torch.from_numpy(cells).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    return network.eval()


def save_staged(weights: Path, models: list[str] = DEPTHS, **fields: Any) -> Path:
    """Save checkpoints of untrained networks below ``weights/tiny``; their predictions are random and repeatable."""
    values = {"history": HISTORY, **fields}
    for model in models:
        network = staged(model, len(fields.get("classes", ["normal", "blast"])))
        save_thin(weights / "tiny" / model / "best.safetensors", about(model, **values), network)
    return weights


def make_content(folder: Path, models: list[str] = DEPTHS, lists: bool = True, why: str = "no lists found.") -> Content:
    """The page's content for the networks saved in ``folder``, as demo.py makes it; the data set is ``folder/csv/tiny``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "build", staged)
        weights = folder / "weights" / "tiny"
        networks = {model: load_members(weights / model / "best.safetensors", model) for model in models}
    valid = read_list(read_data_set(folder / "csv" / "tiny"), "valid", labelled=True) if lists else None
    return prepare("tiny", networks, CPU, valid, why, folder / "report" / "tiny")


@contextmanager
def served(folder: Path, content: Content, port: int | None = None, language: str = "en") -> Iterator[str]:
    """Serve a page on ``port`` or a free one, and yield its address."""
    from lab.page.server import launch

    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "NO_PROXY", "no_proxy"):
            patch.setenv(name, "")  # launch() sets them; restored afterwards
        page, address = launch(content, "127.0.0.1", port, str(folder), language)
        try:
            yield address.rstrip("/")
        finally:
            page.close(verbose=False)


@contextmanager
def made_page(folder: Path) -> Iterator[Served]:
    """Serve a page of three models and twelve valid images; yield its address and content."""
    make_data(folder / "csv" / "tiny")
    save_staged(folder / "weights")
    write_systems(folder / "report" / "tiny" / "compare.csv")
    with inside(folder, staged):
        content = make_content(folder)
        assert content.valid
        results = {model: (content.valid.images.labels, rows) for model, rows in content.valid.probabilities.items()}
        write_metrics(folder / "report" / "tiny" / "metrics.csv", metrics_table(results, content.classes))
        content = replace(content, results=read_results(folder / "report" / "tiny", content.models))
        (folder / "uploads").mkdir()
        with served(folder / "uploads", content) as address:
            yield address, content


def random_image(seed: int, side: int = 48) -> np.ndarray:
    """Noise, RGB uint8 [side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
