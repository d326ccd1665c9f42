"""The catalogue: its rows describe the networks, and one module and one row add a model to all commands."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import demo
import evaluate
import lab.figures.runs
import predict
import train
from lab.checkpoints.checkpoint import read_about, read_tensors
from lab.checkpoints.ensembles import load_members
from lab.checkpoints.headers import chosen_models
from lab.errors import UserError
from lab.page.figures import SYMBOLS, colour_rules
from lab.page.networks import TrainedModel, predict_and_explain
from lab.report.runs import Gaps, read_runs
from lab.report.texts import Texts
from lab.training.recipe import Settings, chosen_settings
from models import catalog
from models.catalog import Model
from tests.made import DEPTHS, FAST, cell, command, inside, save_thin, slow_probabilities, thin
from tests.made import about as made_about
from tests.made_page import CPU

# ---- the rows


def test_the_order_of_the_models() -> None:
    assert catalog.names()[:5] == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] == catalog.resnets()
    assert catalog.depths() == DEPTHS
    assert [catalog.find(model).title for model in DEPTHS] == ["ResNet18", "ResNet50", "ResNet152"]
    lists = ["resnet_18_test", "resnet_50_test", "resnet_152_test"]
    assert [catalog.find(model).test_list for model in DEPTHS] == lists


@pytest.mark.parametrize("name", ["resnet20", "ResNet18", "18", ""])
def test_an_unknown_name_is_an_error_with_the_known_names(name: str) -> None:
    expected = re.escape(f"unknown model {name!r}: the models are {', '.join(catalog.names())}")
    with pytest.raises(ValueError, match=expected):
        catalog.find(name)
    with pytest.raises(ValueError, match=expected):
        catalog.build(name, 2, 64)


@pytest.mark.parametrize("name", catalog.names())
def test_a_row_describes_its_network(name: str) -> None:
    """The network accepts its smallest input, and its stages have the feature maps that Grad-CAM expects."""
    row = catalog.find(name)
    for size in {row.smallest, 80}:
        with torch.device("meta"):
            network, images = catalog.build(name, 3, size), torch.empty(2, 3, size, size)
        shapes: list[torch.Size] = []
        for stage in row.stages:
            network.get_submodule(stage).register_forward_hook(lambda *args, to=shapes: to.append(args[2].shape))
        assert network(images).shape == (2, 3)
        strides = [*row.stages.values()][::-1]  # from the input to the output
        # Exactly where convolutions are padded, as in every ResNet.
        expected = [(math.ceil(size / stride),) * 2 for stride in strides]
        if row.depth:
            assert [shape[2:] for shape in shapes] == expected
        assert all(0 <= large[0] - shape[2] <= 3 for shape, large in zip(shapes, expected, strict=True))


def test_rows_differ_in_figures_and_have_valid_names_and_recipes() -> None:
    rows = list(catalog.MODELS.values())
    for values in ({row.colour for row in rows}, {row.marker for row in rows}, {row.title for row in rows}):
        assert len(values) == len(rows)
    assert {row.marker for row in rows} <= SYMBOLS.keys()
    # Size and window are chosen with the preprocessing, before the recipe.
    settings = Settings.__dataclass_fields__.keys() - {"model", "size", "window"}
    assert all(row.recipe.keys() <= settings for row in rows)
    assert all(name == row.name and re.fullmatch(r"[a-z]\w*", name) for name, row in catalog.MODELS.items())


def test_a_recipe_replaces_defaults_and_options_replace_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.1, "warmup": 5.0, "clip": 1.0, "smoothing": 0.0}
    recipe |= {"batch_size": 128, "progressive": True}
    monkeypatch.setitem(catalog.MODELS, "sketch", replace(ROW, recipe=recipe))

    def chosen(*options: str) -> dict[str, Any]:
        args = train.arguments().parse_args(["--model", "sketch", *options])
        return asdict(chosen_settings("sketch", args, args.given, CPU, made_about().preprocessing))

    assert chosen().items() >= recipe.items()
    given = {"clip": 5.0, "progressive": False, "lr": 0.01}  # clip as train.py's default
    found = chosen("--clip", "5", "--no-progressive", "--lr", "0.01")
    assert found.items() >= (recipe | given).items()
    assert chosen("--optimizer", "sgd").items() >= {"lr": 0.05, "weight_decay": 5e-4, "warmup": 5.0}.items()


# ---- a model is added

MODULE = """
from torch import Tensor, nn


class Sketch(nn.Module):
    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4 * (size // 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
"""
ROW = Model(
    name="sketch",
    title="Sketch",
    builder="sketch_network:Sketch",
    colour="#56B4E9",
    marker="X",
    stages={"features": 2},
    sized=True,
    smallest=24,
    recipe={"weight_decay": 0.02},
)
OPTIONS = ("--data", "tiny", "--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Iterator[Path]:
    """A working directory with the lab's three depths and an added model, which is trained, evaluated and predicted with."""
    folder = tmp_path_factory.mktemp("added")
    for name in ("csv", "weights", "report"):
        shutil.copytree(trained / name / "tiny", folder / name / "tiny")
    (folder / "sketch_network.py").write_text(MODULE)
    real = catalog.build

    def build(name: str, classes: int, size: int) -> nn.Module:
        return thin(name, classes) if name in DEPTHS else real(name, classes, size)

    with inside(folder, build, figures=False) as patch:
        patch.syspath_prepend(folder)
        patch.setitem(catalog.MODELS, "sketch", ROW)
        command(train, "--model", "sketch", "--data", "tiny", *FAST, "--epochs", "2")
        command(evaluate, "--model", "sketch", *OPTIONS)
        command(predict, "--model", "sketch", *OPTIONS)
        yield folder


def test_an_added_model_trains(added: Path) -> None:
    best = added / "weights" / "tiny" / "sketch" / "best.safetensors"
    about = read_about(best, "sketch")
    assert len(about.history) == 2 and "valid_accuracy_d4" in about.metrics
    assert about.settings["weight_decay"] == 0.02 and about.settings["progressive"] is False
    assert read_tensors(best)["model.classifier.weight"].shape == (2, 4 * 16 * 16)  # built for 32 px
    assert len(pd.read_csv(added / "report" / "tiny" / "history_sketch.csv")) == 2


def test_an_added_model_is_evaluated_and_drawn(added: Path) -> None:
    report, valid = added / "report" / "tiny", pd.read_csv(added / "csv" / "tiny" / "valid.csv")
    table = pd.read_csv(report / "valid_sketch.csv")
    slow = expected_probabilities(added, valid["Path"].tolist())
    np.testing.assert_allclose(table[["probability_0", "probability_1"]], slow, atol=2e-5)
    assert set(pd.read_csv(report / "metrics_sketch.csv")["model"]) == {"sketch"}
    for name in ("accuracy", "confusion", "roc"):
        assert (report / f"{name}_sketch.png").read_bytes().startswith(b"\x89PNG"), name
    assert not (report / "accuracy_comparison.png").exists()


def expected_probabilities(folder: Path, paths: list[str]) -> np.ndarray:
    """The added model's class probabilities by the slow oracle, with D4 if it helped on valid."""
    best = folder / "weights" / "tiny" / "sketch" / "best.safetensors"
    metrics = read_about(best).metrics
    plain, d4 = ((metrics[f"valid_accuracy{end}"], -metrics[f"valid_loss{end}"]) for end in ("", "_d4"))
    images = [folder / "csv" / "tiny" / path for path in paths]
    return slow_probabilities(best, images, network=catalog.build, d4=d4 > plain)


def test_an_added_model_predicts_the_test_list_of_resnet18(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = added / "csv" / "tiny"
    ids = pd.read_csv(lists / "resnet_18_test.csv")["Path"].tolist()
    submission = pd.read_csv(lists / "submission_sketch.csv")
    assert submission["ID"].tolist() == ids
    assert submission["label"].tolist() == expected_probabilities(added, ids).argmax(axis=1).tolist()
    command(predict, "--check", lists / "submission_sketch.csv", "--data", "tiny")
    assert "in the order of resnet_18_test.csv" in capsys.readouterr().out


def test_the_demo_and_its_page_show_an_added_model(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(demo, *OPTIONS)
    assert re.search(r"^ *sketch +2,166 ", capsys.readouterr().out, re.MULTILINE)  # parameters
    members = load_members(added / "weights" / "tiny" / "sketch" / "best.safetensors", "sketch")
    trained = TrainedModel("sketch", members, d4=False, accuracy=(0.5, 0.4, 0.6))
    image = cell(np.random.default_rng(3), 1)
    for stage in ("", "layer4"):  # a stage of another model
        answer = predict_and_explain(trained, image, CPU, stage=stage)
        assert (answer.stage, answer.map_side) == ("features", 16)
        assert answer.heat is not None and answer.heat.shape == (64, 64, 3)
    assert ".sketch { --depth: #56B4E9; }" in colour_rules()


def test_all_leaves_out_an_added_model(
    added: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, submission = added / "report" / "tiny", added / "csv" / "tiny" / "submission_sketch.csv"
    drawn: list[list[str]] = []
    monkeypatch.setattr(lab.figures.runs, "accuracy_figure", lambda histories, _: drawn.append(list(histories)))
    monkeypatch.setattr(lab.figures.runs, "save", lambda *_: None)
    before = submission.stat().st_mtime_ns
    command(train, "--model", "all", "--data", "tiny", *FAST)
    command(evaluate, *OPTIONS)
    command(predict, *OPTIONS)
    assert "sketch" not in capsys.readouterr().out
    assert drawn == [DEPTHS]
    models = pd.read_csv(report / "metrics.csv")["model"]
    assert list(models.unique())[:3] == DEPTHS and not models.str.contains("sketch").any()
    assert submission.stat().st_mtime_ns == before
    assert list(read_runs(Texts("en"), report, added / "weights/tiny", lambda *_: "", Gaps())) == DEPTHS


def test_all_is_an_error_if_no_resnet_is_trained(added: Path, tmp_path: Path) -> None:
    network = catalog.build("sketch", 2, 32)
    save_thin(tmp_path / "tiny" / "sketch" / "best.safetensors", made_about("sketch"), network)
    assert chosen_models(tmp_path / "tiny", "sketch") == ["sketch"]
    with pytest.raises(UserError, match="no trained ResNet there; give the model's name, such as --model sketch"):
        chosen_models(tmp_path / "tiny", "all")


def test_an_input_below_a_models_smallest_is_refused(added: Path) -> None:
    for model, title, smallest in (("sketch", "Sketch", 24), ("all", "ResNet18", 32)):
        with pytest.raises(UserError, match=f"--size 20 is too small: {title} needs {smallest} px or more"):
            command(train, "--model", model, "--data", "tiny", "--size", "20")
