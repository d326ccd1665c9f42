"""The networks to compare with, trained, resumed and shown by the commands like the lab's own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import demo
import evaluate
import predict
import train
from lab.checkpoints.ensembles import load_members
from lab.data.images import read_image
from lab.data.random_numbers import step_seed
from lab.errors import UserError
from lab.page.html import legend, panel
from lab.page.networks import TrainedModel, predict_and_explain
from lab.page.texts import TEXTS
from lab.training.ema import EMA
from models import catalog
from tests.made import Patch, assert_same_run, command, inside, interrupted, make_data, signalled
from tests.made_page import CPU

OPTIONS = ("--data", "tiny", "--device", "cpu", "--precision", "fp32")
FAST = ("--size", "32", "--epochs", "2", "--batch-size", "8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """A working directory with a small data set and the catalogue's own networks."""
    make_data(tmp_path / "csv" / "tiny")
    with inside(tmp_path, catalog.build, figures=False):
        monkeypatch.chdir(tmp_path)
        yield tmp_path


@pytest.mark.parametrize("model", ["fc", "cnn2_dropout", "vit_tiny"])
def test_the_commands_train_and_predict(work: Path, model: str) -> None:
    command(train, *OPTIONS, *FAST, "--model", model)
    for module in (evaluate, predict):
        command(module, *OPTIONS, "--model", model)
    command(demo, *OPTIONS)
    images = pd.read_csv("csv/tiny/resnet_18_test.csv")["Path"]
    assert pd.read_csv(f"csv/tiny/submission_{model}.csv")["ID"].tolist() == images.tolist()
    members = load_members(work / "weights" / "tiny" / model / "best.safetensors", model)
    trained = TrainedModel(model, members, d4=False, accuracy=(0.5, 0.4, 0.6))
    answer = predict_and_explain(trained, read_image(work / "csv" / "tiny" / images[0]), CPU)
    html = panel(TEXTS["en"], answer, trained.classes, [0, 1], None)
    if catalog.find(model).stages:
        assert answer.heat is not None and "features.0" in legend(TEXTS["en"], [answer])
    else:
        assert answer.heat is None and legend(TEXTS["en"], [answer]) == ""
        assert "no heat map: this network has no feature maps" in html


def test_a_network_with_dropout_that_is_resumed_ends_the_same(work: Path) -> None:
    run = (*OPTIONS, *FAST, "--model", "cnn_light", "--epochs", "3")
    command(train, *run, "--weights", "whole/weights", "--report", "whole/report")
    parts = (*run, "--weights", "parts/weights", "--report", "parts/report")
    with interrupted(at=1):  # between two epochs
        command(train, *parts)
    with signalled(EMA, "update", 2, signal.SIGINT):  # within the next one
        command(train, *parts)
    command(train, *parts)
    assert_same_run(work / "whole", work / "parts", "cnn_light")


def test_each_part_of_each_step_has_its_own_seed() -> None:
    places = [(seed, step, part, rank) for seed in (0, 1) for step in range(20) for part in (0, 1) for rank in (0, 1)]
    assert len({step_seed(*place) for place in places}) == len(places)
    assert all(0 <= step_seed(*place) < 2**63 for place in places)


def test_a_size_that_patches_do_not_divide_is_refused(work: Path) -> None:
    with pytest.raises(UserError, match="--size 60: ViT-Tiny/8 needs a multiple of 8 px"):
        command(train, *OPTIONS, "--model", "vit_tiny", "--size", "60")
