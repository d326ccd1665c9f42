"""Explanations: methods that must pass or fail by construction, randomised weights, curves, the chosen images, the whole way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lab.data.lists import read_data_set
from lab.errors import UserError
from lab.evaluation import attribution
from lab.evaluation.attribution import TITLES, Explainer
from models import catalog
from studies import explain, faithfulness
from studies.partitions import NAME, PartitionExplainer
from tests.made import VALID, Capture, Patch, about, command, inside, make_data, save_thin
from tests.made_page import CPU, save_staged, staged

needs_shap = pytest.mark.skipif(
    find_spec("shap") is None or find_spec("cv2") is None, reason="needs shap and opencv: requirements-extras.txt"
)


class Corner(nn.Module):
    """Logits of two classes: the upper left quarter of the image, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.2, 1, 3 * 8 * 8).view(3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        total = (x[:, :, :8, :8] * self.weight).sum(dim=(1, 2, 3)) / 20
        return torch.stack([total, -total], dim=1)


def random_images(count: int, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


# ---- the tests of the methods --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "layers"), [*zip(faithfulness.LEVELS, (1, 12, 24), strict=True)])
def test_randomised_weights_are_shuffled_from_the_last_layer_on(level: str, layers: int) -> None:
    network = staged("resnet50", 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = faithfulness.randomised(network, level, random_images(6))
    own = dict(network.named_parameters())
    names = [name for name, module in network.named_modules() if [*module.parameters(recurse=False)]]
    assert len(names) == 24
    last = names[len(names) - layers :]
    buffers = dict(found.named_buffers())
    for name, values in before.items():
        if "running" in name:  # measured anew where the layer is shuffled
            assert torch.equal(buffers[name], values) != (name.rsplit(".", 1)[0] in last), name
    for name, values in found.named_parameters():
        shuffled = name.rsplit(".", 1)[0] in last
        torch.testing.assert_close(values.flatten().sort().values, own[name].flatten().sort().values)
        if own[name].unique().numel() > 3:  # norms have ones and zeros only
            assert torch.equal(values, own[name]) != shuffled, name
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not found.training and bool(found(random_images(2)).isfinite().all())


class Blend(nn.Module):
    """Logits of two classes: a weighted sum over the image, with large weights for the pixels of one side."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        weight = rng.normal(0, 0.1, (3, 32, 32)) + (np.arange(32) < 10)
        self.weight = nn.Parameter(torch.from_numpy(weight).float())

    def forward(self, x: Tensor) -> Tensor:
        total = (x * self.weight).sum(dim=(1, 2, 3)) / 100
        return torch.stack([total, -total], dim=1)


def test_methods_that_ignore_the_network_fail_and_one_that_knows_it_passes() -> None:
    """The gradient times the input of a linear network is right; the image's brightness does not depend on the network; noise
    neither depends on it nor finds what matters."""
    explainer, rng = Explainer(Blend(), CPU), np.random.default_rng(0)
    other = Explainer(faithfulness.randomised(explainer.network, "all layers", random_images(4)), CPU)
    alike: dict[str, list[list[float]]] = {}
    drawn: dict[str, list[np.ndarray]] = {"random": [], "centre": []}
    for image in (0.5 + random_images(12) / 4).split(1):
        for name, curve in faithfulness.controls(explainer, image, 0, rng).items():
            drawn[name].append(curve)
        first = rng.normal(size=(32, 32)).astype(np.float32)
        maps = {
            "right": [one.attribute("integrated_gradients", image, 0) for one in (explainer, other)],
            "brightness": [image[0].sum(dim=0).numpy()] * 2,
            "noise": [first, rng.normal(size=(32, 32)).astype(np.float32)],
        }
        for name, (found, again) in maps.items():
            alike.setdefault(name, []).append([np.nan, np.nan, faithfulness.likeness(found, again)])
            drawn.setdefault(name, []).append(faithfulness.curves(explainer, image, 0, faithfulness.order_of(found)))
    likeness, curves = ({name: np.array(values) for name, values in one.items()} for one in (alike, drawn))
    unknown = np.full((12, 3), np.nan)
    table = faithfulness.verdicts(likeness, curves, dict.fromkeys(alike, unknown), unknown)
    right, brightness, noise = ({str(name): value for name, value in row.items()} for row in table.to_dict("records"))
    assert right["correlation_3"] < 0.3 and right["deletion_low"] > 0.05 and right["passes"]
    assert brightness["correlation_3"] == pytest.approx(1) and not brightness["passes"]
    assert noise["correlation_3"] < 0.2 and abs(noise["deletion_gain"]) < 0.05 and not noise["passes"]
    assert table[["cell", "area_cell", "correlation_1"]].isna().all(axis=None) and (table["with_mask"] == 0).all()


def test_means_are_over_the_maps_that_can_be_compared() -> None:
    """Of four images one map is constant and one image has no mask."""
    curves = {name: np.tile(np.linspace(1, 0, 17), (4, 2, 1)) for name in ("one", "random", "centre")}
    alike = {"one": np.array([[0.1, 0.2, 0.3], [0.3, 0.2, np.nan], [0.1, 0.2, 0.5], [0.1, 0.2, 0.1]])}
    fallen = {"one": np.array([[1, 0, 0], [0.5, 0.5, 0], [np.nan] * 3, [0, 0, 1]])}
    areas = np.array([[0.2, 0.1, 0.7], [0.4, 0.1, 0.5], [0.9, 0.1, 0], [0.3, 0.1, 0.6]])
    (row,) = faithfulness.verdicts(alike, curves, fallen, areas).to_dict("records")
    assert (row["compared"], row["with_mask"], row["images"]) == (3, 3, 4)
    assert row["correlation_1"] == pytest.approx(0.15) and row["correlation_3"] == pytest.approx(0.3)
    assert row["cell"] == pytest.approx(0.5) and row["area_cell"] == pytest.approx(0.3)
    alike["one"][:, 2] = np.nan
    assert not faithfulness.verdicts(alike, curves, fallen, areas)["passes"][0]  # nothing was compared


def test_curves_begin_and_end_at_the_whole_image() -> None:
    explainer, image = Explainer(staged("resnet18", 2), CPU), random_images(1)
    order = np.random.default_rng(0).permutation(faithfulness.GRID**2)
    deletion, insertion = faithfulness.curves(explainer, image, 1, order)
    with torch.no_grad():
        whole, nothing = (
            float(explainer.network(batch).softmax(1)[0, 1]) for batch in (image, torch.zeros_like(image))
        )
    assert deletion[0] == pytest.approx(whole, abs=1e-5) and insertion[-1] == pytest.approx(whole, abs=1e-5)
    assert deletion[-1] == pytest.approx(nothing, abs=1e-5)
    assert faithfulness.area(np.linspace(1, 0, 17)) == pytest.approx(0.5)


def test_squares_are_ordered_by_their_mean() -> None:
    values = np.zeros((40, 40), np.float32)  # not a multiple of the grid
    values[35:, :5], values[:5, 35:] = 3, -2
    order = faithfulness.order_of(values)
    assert order[0] // 16 >= 14 and order[0] % 16 <= 1 and order[-1] // 16 <= 1 and order[-1] % 16 >= 14


def test_a_constant_map_is_compared_with_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(8, 8))
    assert np.isnan(faithfulness.likeness(values, np.zeros((8, 8))))
    assert np.isnan(faithfulness.likeness(values, np.full((8, 8), np.nan)))
    assert faithfulness.likeness(values, values**3) == pytest.approx(1)  # ranks
    assert faithfulness.likeness(values, -values) == pytest.approx(1)  # absolute values


@given(st.integers(0, 50), st.integers(20, 70), st.floats(4, 12))
def test_places_divide_the_image(seed: int, side: int, radius: float) -> None:
    y, x = np.mgrid[:side, :side]
    mask = np.hypot(y - side / 2, x - side / 2) < radius
    where = faithfulness.places(mask)
    if where is not None:
        assert (where.sum(axis=0) == 1).all() and mask[where[0]].all() and not mask[where[2]].any()
        found = faithfulness.shares(np.random.default_rng(seed).normal(size=(side, side)), where)
        assert found.sum() == pytest.approx(1)
    assert faithfulness.places(np.zeros((side, side), bool)) is None


def test_nuclei_are_the_darkest_of_three_groups() -> None:
    image = np.full((60, 60, 3), 230, np.uint8)  # background, red cells, a nucleus
    image[5:25, 5:25], image[30:50, 30:50] = (220, 160, 170), (120, 60, 150)
    image = (image.astype(int) + np.random.default_rng(0).integers(-8, 9, image.shape)).astype(np.uint8)
    expected = np.zeros((60, 60), bool)
    expected[30:50, 30:50] = True
    assert np.array_equal(faithfulness.nucleus(image), expected)
    assert not faithfulness.nucleus(np.full((60, 60, 3), 200, np.uint8)).any()


# ---- SHAP ----------------------------------------------------------------------------------------------------------------------


@needs_shap
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of shap's colours
def test_partitions_find_the_corner_and_add_up() -> None:
    """SHAP values add up to the difference between the logits of the image and of the wholly masked image."""
    preprocessing = about().preprocessing
    image = random_images(1)
    image[:, :, :8, :8] += 2
    explainer = PartitionExplainer(Corner(), CPU, preprocessing=preprocessing)
    found = explainer.attribute(NAME, image, 0)
    pixels = explainer.pixels(image)
    hidden = explainer.shap.masker(np.zeros(pixels.size, bool), pixels)[0][0]
    with_all, without = explainer.logits_of_pixels(np.stack([pixels, hidden]))[:, 0]
    assert found.shape == (32, 32) and found.sum() == pytest.approx(with_all - without, abs=1e-3)
    assert np.abs(found[:8, :8]).sum() > 0.7 * np.abs(found).sum()  # inpainting carries some out


# ---- the command ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Patch]:
    """The tiny data set and an untrained network for it, in the working directory."""
    make_data(tmp_path / "csv" / "tiny")
    save_staged(tmp_path / "weights", ["resnet18"])
    with inside(tmp_path, staged) as patch:
        yield patch


FAST = ("--data", "tiny", "--model", "resnet18", "--methods", "gradcam", "deep_lift_shap", "occlusion")


def test_the_whole_way(data: Patch, capsys: Capture) -> None:
    command(explain, *FAST, "--check", "3", "--count", "2", "--classes", "all")
    output, folder = capsys.readouterr().out, Path("report", "tiny")
    assert "Grad-CAM: at layer2: the deepest" in output and re.search(r"Occlusion (passes|fails): correlation", output)
    table = pd.read_csv(folder / "explain_resnet18_verdicts.csv")
    assert table["method"].tolist() == ["gradcam", "deep_lift_shap", "occlusion"] and (table["images"] == 3).all()
    assert table[["cell", "border", "background"]].sum(axis=1).to_numpy() == pytest.approx(1)
    curves = pd.read_csv(folder / "explain_resnet18_curves.csv")
    assert curves.groupby("method").size().to_dict() == dict.fromkeys(
        ["random", "centre", *table["method"]], faithfulness.STEPS + 1
    )
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == {f"explain_resnet18_{name}.png" for name in ("trust", "attributions", "filters", "maps")}
    page = (folder / "explain_resnet18.html").read_text()
    assert page.count("data:image/png") == 4 and "http" not in page and len(page) < 3_000_000
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    command(explain, *FAST, "--check", "3", "--count", "2", "--classes", "all")
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
    command(explain, *FAST, "--check", "0", "--no-images")  # what an earlier start has drawn is removed
    assert {path.name for path in folder.iterdir()} == {"explain_resnet18.html", "explain_resnet18_filters.png"}


def test_the_chosen_images(data: Patch) -> None:
    args = explain.arguments().parse_args(FAST)
    study = explain.open_study(args, read_data_set("tiny", None))
    labels = study.images.labels
    rows = np.full((VALID, 2), 0.5)
    rows[np.arange(VALID), labels] = np.linspace(0.55, 0.99, VALID)  # all right, the first ones least certain
    rows[5], rows[4] = np.eye(2)[1 - labels[5]], [0.49, 0.51] if labels[4] == 0 else [0.51, 0.49]
    study = replace(study, probabilities=rows)
    assert explain.choose(["worst"], study, 2) == [5, 4] and explain.choose(["uncertain"], study, 2) == [4, 0]
    assert set(explain.choose(["confused"], study, 6)) == {4, 5}
    assert len(set(explain.choose(["random"], study, 3))) == 3
    assert explain.choose([study.images.ids[7], study.images.ids[2]], study, 1) == [7, 2]
    assert explain.classes_of(["predicted", "true"], study, 5) == [1 - labels[5], labels[5]]
    assert explain.classes_of(["true", "predicted"], study, 0) == [labels[0]]
    assert explain.classes_of(["leukemia blast"], study, 0) == [1] and explain.classes_of(["all"], study, 0) == [0, 1]
    rows[4:6] = np.eye(2)[labels[4:6]]
    for asked, message in (("confused", "predicted rightly"), ("none.png", "no such path")):
        with pytest.raises(UserError, match=message):
            explain.choose([asked], study, 3)
    with pytest.raises(UserError, match="expected some of predicted, true, all, normal, leukemia blast"):
        explain.classes_of(["basophil"], study, 0)


def test_layers(data: Patch) -> None:
    network = staged("resnet18", 2)
    norm = explain.feature_maps(network, "layer2.0.bn1", random_images(1))
    assert norm.min() < 0  # the ReLU after it works in place
    maps = explain.feature_maps(network, "layer1", random_images(1))
    with torch.no_grad():
        expected = network.layer1(network.bn1(network.conv1(random_images(1))).relu())[0]
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    for layer, message in (("layer9", "no such layer; some are conv1"), ("fc", "is no map")):
        with pytest.raises(UserError, match=message):
            explain.feature_maps(network, layer, random_images(1))
    from models.vit import ViT

    tokens = explain.feature_maps(ViT(2, 32, 8, 12, 1, 3), "encoder", random_images(1))
    assert tokens.shape == (12, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check", "1"], "2 images or more"),
        (["--check", "-3"], "2 images or more"),
        (["--model", "resnet50"], "resnet50"),
        (["--queries", "nothing.png"], "valid.csv has no such path"),
        (["--layer", "layer7"], "no such layer"),
        (["--classes", "basophil"], "expected some of"),
    ],
)
def test_wrong_options_are_one_sentence(data: Patch, options: list[str], message: str) -> None:
    earlier = Path("report", "tiny", "explain_resnet18_verdicts.csv")
    earlier.parent.mkdir(parents=True, exist_ok=True)
    earlier.write_text("kept")
    with pytest.raises(UserError, match=message):
        command(explain, "--data", "tiny", "--model", "resnet18", *options)
    assert earlier.read_text() == "kept"  # nothing is lost


def test_missing_packages_are_named(data: Patch, capsys: Capture) -> None:
    data.setattr(explain, "missing_packages", lambda: ["shap", "cv2"])
    explainer = PartitionExplainer(staged("resnet18", 2), CPU, ["layer4"], preprocessing=about().preprocessing)
    assert NAME not in explain.available(None, explainer) and "SHAP by partitions: left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="pip install -r requirements-extras"):
        explain.available([NAME], explainer)


def test_levels_methods_and_images_are_paired(data: Patch) -> None:
    """With attributions that are known: the maps of each level are compared with the network's own of the same image."""
    args = explain.arguments().parse_args([*FAST[:-2], "occlusion"])
    study = replace(explain.open_study(args, read_data_set("tiny", None)), methods=["occlusion", "gradcam"])
    shift = {id(study.explainer.network): 0.0}

    def randomised(network: nn.Module, level: str, background: Tensor) -> nn.Module:
        other = staged("resnet18", 2)
        shift[id(other)] = 1.0 + faithfulness.LEVELS.index(level)
        return other

    def attribute(self: Explainer, method: str, image: Tensor, label: int) -> np.ndarray:
        own = image[0, 0].numpy() if method == "occlusion" else image[0, 1].numpy() ** 2
        noise = np.random.default_rng(0).permutation(own.ravel()).reshape(own.shape)
        return np.asarray(own + shift[id(self.network)] * noise * (method == "occlusion"), np.float32)

    data.setattr(faithfulness, "randomised", randomised)
    data.setattr(Explainer, "attribute", attribute)
    table = explain.measure(study, 4)[0].set_index("method")
    falling = [float(table[f"correlation_{number}"]["occlusion"]) for number in (1, 2, 3)]
    assert falling == sorted(falling, reverse=True) and falling[0] > falling[2] + 0.1
    assert table["correlation_3"]["gradcam"] == pytest.approx(1)


def test_a_class_may_be_called_all(data: Patch) -> None:
    study = explain.open_study(explain.arguments().parse_args(FAST), read_data_set("tiny", None))
    study.data.classes[:] = ["hem", "all"]
    assert explain.classes_of(["all"], study, 0) == [1]


@pytest.mark.parametrize(
    ("model", "left_out"), [("fc", "Grad-CAM: left out"), ("vit_tiny", "DeepLiftShap: left out"), ("cnn4", "")]
)
def test_networks_of_other_kinds(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture, model: str, left_out: str
) -> None:
    """By all methods that can explain them, apart from SHAP by partitions, which takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explain, "missing_packages", lambda: ["shap"])
    for name, few in (("STEPS", 2), ("SAMPLES", 1), ("WINDOWS", 2)):
        monkeypatch.setattr(attribution, name, few)
    monkeypatch.setattr(explain, "BACKGROUND", 2)
    make_data(tmp_path / "csv" / "tiny")
    torch.manual_seed(0)
    network = catalog.build(model, 2, 32)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)  # the last one of a ViT begins with zeros
    save_thin(tmp_path / "weights" / "tiny" / model / "best.safetensors", about(model), network)
    command(explain, "--data", "tiny", "--model", model, "--check", "2", "--count", "1")
    output, folder = capsys.readouterr().out, Path("report", "tiny")
    table = pd.read_csv(folder / f"explain_{model}_verdicts.csv").set_index("method")
    assert left_out in output and np.isfinite(float(table["correlation_3"]["integrated_gradients"]))
    assert set(table.index) == {
        "fc": set(TITLES) - {"gradcam"},
        "vit_tiny": set(TITLES) - {"gradcam", "deep_lift_shap"},
    }.get(model, set(TITLES))
    assert (folder / f"explain_{model}_filters.png").is_file() == (model != "fc")
    assert (folder / f"explain_{model}_maps.png").is_file() == (model != "fc")
