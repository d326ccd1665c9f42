"""The page's functions: predictions, filters of the gallery, saved tables, figures, and refused input."""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import demo
import evaluate
from lab.checkpoints.checkpoint import read_about, read_tensors, save_checkpoint
from lab.checkpoints.ensembles import other
from lab.data.augmentation import network_input
from lab.data.images import read_image
from lab.data.lists import ImageList
from lab.data.store import Store
from lab.errors import UserError
from lab.evaluation.attribution import Explainer, empty_colour
from lab.evaluation.gradcam import explain
from lab.evaluation.metrics import metrics_table, wilson, write_metrics
from lab.evaluation.unlike import distances, statistics, typical_of
from lab.figures.attribution import strength
from lab.page import answers, networks
from lab.page.answers import Content, read_upload
from lab.page.content import read_results, read_systems
from lab.page.figures import coloured_shares, confusion_figure, curves_figure, systems_figure
from lab.page.gallery import Valid, read_table
from lab.page.html import PAIRED, cards, header, notice, probability, results, systems, verdict
from lab.page.layout import build
from lab.page.networks import predict_and_explain
from lab.page.texts import TEXTS
from tests.made import (
    DEPTHS,
    VALID,
    Capture,
    Patch,
    cell,
    command,
    inside,
    make_data,
    slow_probabilities,
    write_systems,
)
from tests.made_page import CPU, HISTORY, make_content, random_image, save_staged, staged

SAY = TEXTS["en"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists and three networks, not to be changed."""
    folder = tmp_path_factory.mktemp("page")
    make_data(folder / "csv" / "tiny")
    save_staged(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def content(made: Path) -> Iterator[Content]:
    with inside(made, staged):
        yield make_content(made)


@pytest.fixture
def valid(content: Content) -> Valid:
    assert content.valid
    return content.valid


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def texts(html: str) -> str:
    """The text of HTML, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


# ------------------------------------------------------------------------------------------------------ the models


def test_every_card_shows_the_accuracy_on_valid_and_its_interval(content: Content, made: Path) -> None:
    paths = [made / "csv" / "tiny" / "valid" / f"{index}.png" for index in range(VALID)]
    for model in content.models:
        slow = slow_probabilities(made / f"weights/tiny/{model.name}/best.safetensors", paths, staged)
        hits = int((slow.argmax(axis=1) == np.arange(VALID) % 2).sum())
        low, high = wilson(hits, VALID)
        assert model.accuracy == (hits / VALID, low, high) and model.milliseconds > 0
        text = texts(cards(SAY, [model], "CPU"))
        assert f"{100 * hits / VALID:.2f} % accuracy on valid" in text and "32 px" in text
        assert f"95 % interval {100 * low:.2f}–{100 * high:.2f}" in text


def test_without_lists_the_cards_show_the_accuracy_in_the_checkpoints(tmp_path: Path) -> None:
    save_staged(tmp_path / "weights", ["resnet18"], metrics={"valid_accuracy": 0.75, "valid_images": 40})
    save_staged(tmp_path / "weights", ["resnet50"])
    save_staged(tmp_path / "weights", ["resnet152"], metrics={"valid_accuracy": 0.75})  # of how many images?
    content = make_content(tmp_path, lists=False)
    assert content.valid is None and content.models[0].accuracy == (0.75, *wilson(30, 40))
    counted, unknown, uncounted = (texts(cards(SAY, [model], "CPU")) for model in content.models)
    assert "75.00 % accuracy on valid" in counted and "interval" in counted and "no accuracy on valid" in unknown
    assert "75.00 % accuracy on valid" in uncounted and "interval" not in uncounted and "nan" not in uncounted
    page = str(build(content).get_config_file())
    assert "No gallery: no lists found." in page and "No confusion matrices: no lists found." in page


def test_histories_come_from_checkpoints_or_the_report(tmp_path: Path, capsys: Capture) -> None:
    save_staged(tmp_path / "weights", ["resnet18"])
    save_staged(tmp_path / "weights", ["resnet50", "resnet152"], history=[])
    report = tmp_path / "report" / "tiny"
    report.mkdir(parents=True)
    for model, epochs in (("resnet18", 1), ("resnet50", 2)):  # that of resnet18 is of another run
        pd.DataFrame(HISTORY[:epochs]).to_csv(report / f"history_{model}.csv", index=False)
    models = make_content(tmp_path, lists=False).models
    assert [None if model.history is None else len(model.history) for model in models] == [3, 2, None]
    assert "resnet152: no curves" in capsys.readouterr().out


def test_an_ensemble_predicts_the_mean_of_its_members(tmp_path: Path) -> None:
    best = save_staged(tmp_path / "weights", ["resnet18"], members=2) / "tiny" / "resnet18" / "best.safetensors"
    tensors = {name: values * 1.5 for name, values in read_tensors(best).items()}
    save_checkpoint(other(best.parent, 2), read_about(best), tensors)
    model = make_content(tmp_path, ["resnet18"], lists=False).models[0]
    image = cell(np.random.default_rng(3), 1)
    Image.fromarray(image).save(tmp_path / "cell.png")
    rows = [slow_probabilities(path, [tmp_path / "cell.png"], staged)[0] for path in (best, other(best.parent, 2))]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    prediction = predict_and_explain(model, image, CPU)
    np.testing.assert_allclose(prediction.probabilities, np.mean(rows, axis=0), rtol=1e-4)
    assert "mean of 2 seeds" in texts(cards(SAY, [model], "CPU"))


def test_the_time_for_an_image_is_explained(content: Content) -> None:
    model = content.models[0]
    for d4, members, expected in (
        (False, 1, "96 ms"),
        (True, 1, "96 ms per image, CPU: 8 views (D4), about 12 ms each"),
        (True, 2, "96 ms per image, CPU: 2 networks × 8 views (D4), about 6 ms each"),
        (False, 2, "96 ms per image, CPU: 2 networks, about 48 ms each"),
    ):
        one = replace(model, d4=d4, members=model.members * members, milliseconds=96.0)
        ((time, reason),) = re.findall(r"<dt>(per image[^<]*)</dt><dd>([^<]*)</dd>", cards(SAY, [one], "CPU"))
        assert f"{reason} {time}".startswith(expected) and ("each" in time) == ("each" in expected)


# ------------------------------------------------------------------------------------------------------ other systems


def test_other_systems_are_shown_as_compared(tmp_path: Path, capsys: Capture) -> None:
    assert read_systems(tmp_path) is None
    write_systems(tmp_path / "compare.csv")
    table = read_systems(tmp_path)
    assert table is not None
    html = systems(TEXTS["en"], table)
    assert "1. EfficientNet-Lite0, fine-tuned" in html and "<td>97.50 %<small>96.0–98.5</small></td>" in html
    assert "&lt;b&gt;logistic" in html and "<b>" not in html
    figure = systems_figure(table, False, TEXTS["en"])
    points = {trace.name: (list(trace.x), list(trace.y), list(trace.text)) for trace in figure.data}
    assert points == {"ResNet, from scratch": ([200], [97.5], [2]), "ImageNet weights": ([80], [99], [1])}
    (tmp_path / "compare.csv").write_text("system\nresnet18\n")
    assert read_systems(tmp_path) is None and "compare.csv: is not what" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ the results


@pytest.fixture
def measured(content: Content, valid: Valid, tmp_path: Path) -> pd.DataFrame:
    """``metrics.csv``, as evaluate.py writes it into the folder."""
    found = {model: (valid.images.labels, rows) for model, rows in valid.probabilities.items()}
    trust = [
        {"model": model, "class": "overall", "metric": metric, "value": 0.25}
        for model in DEPTHS
        for metric in ("temperature", "calibration_error", "certain_risk")
    ]
    write_metrics(tmp_path / "metrics.csv", pd.concat([metrics_table(found, content.classes), pd.DataFrame(trust)]))
    return pd.read_csv(tmp_path / "metrics.csv")


def test_the_results_are_those_in_metrics_csv(content: Content, measured: pd.DataFrame, tmp_path: Path) -> None:
    html = results(SAY, read_results(tmp_path, content.models), content.models, content.classes)
    value = measured.set_index(["model", "class", "metric"])["value"]
    overall, trust, single, pairs = (
        {
            head: re.findall(r"<td>([^<]*)", cells)
            for head, cells in re.findall(r'scope="row">(.*?)</th>(.*?)</tr>', part)
        }
        for part in html.split("<tbody>")[1:]
    )
    for model in content.models:
        assert overall[model.title][0] == f"{100 * value[model.name, 'overall', 'accuracy']:.2f} %"
        assert overall[model.title][3] == f"{value[model.name, 'overall', 'auc']:.4f}"
        assert trust[model.title] == ["0.250", "–", "25.00 %", "–", "–", "25.00 %"]
    for name in content.classes:
        sides = [value[model, name, side] for model in DEPTHS for side in ("precision", "recall")]
        assert single[name] == [*("–" if np.isnan(one) else f"{100 * one:.1f}" for one in sides), "6"]
    pair = [value["resnet18 vs resnet152", "overall", metric] for metric in PAIRED]
    assert pairs["ResNet18 · ResNet152"] == [f"{pair[0]:.0f}", f"{pair[1]:.0f}", f"{pair[2]:.3g}"] and len(pairs) == 3


def test_metrics_of_other_weights_or_of_no_table_are_left_out(
    content: Content, measured: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    accuracy = (measured["class"] == "overall") & (measured["metric"] == "accuracy")
    changed = measured.assign(value=measured["value"].mask(accuracy & (measured["model"] == "resnet50"), 0.99))
    changed.to_csv(tmp_path / "metrics.csv", index=False)
    assert set(read_results(tmp_path, content.models)["model"]) == {"resnet18", "resnet152", "resnet18 vs resnet152"}
    measured[measured["model"] == "resnet50"].to_csv(tmp_path / "metrics_resnet50.csv", index=False)  # evaluated alone
    assert set(DEPTHS) < set(read_results(tmp_path, content.models)["model"])
    newer = measured.assign(value=measured["value"].mask(measured["metric"] == "auc", 0.125))
    newer = newer.replace({"class": {"normal": "NA"}})
    newer[newer["model"] == "resnet50"].to_csv(tmp_path / "metrics_resnet50.csv", index=False)
    read = read_results(tmp_path, content.models).set_index(["model", "class", "metric"])["value"]
    assert read["resnet50", "overall", "auc"] == 0.125 and ("resnet50", "NA", "recall") in read
    measured.assign(model=measured["model"].replace("resnet18", np.nan)).to_csv(tmp_path / "metrics.csv", index=False)
    assert "resnet152" in set(read_results(tmp_path, content.models)["model"])
    for damaged in (b"\x80\0", b"model,class\n", b"", b"model,class,metric,value,low,high,note\na,b,c,d,e,f,g\n"):
        (tmp_path / "metrics.csv").write_bytes(damaged)
        assert set(read_results(tmp_path, content.models)["model"]) == {"resnet50"}
        assert "metrics.csv: cannot be read" in capsys.readouterr().err
    page = str(build(replace(content, results=read_results(tmp_path, content.models))).get_config_file())
    assert "ResNet18: no metrics of these weights. Run evaluate.py" in page and "ResNet50: no metrics" not in page


# ------------------------------------------------------------------------------------------------------ the predictions


def test_every_model_predicts_an_upload(content: Content, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "a cell.png"
    Image.fromarray(cell(np.random.default_rng(5), 1)).save(path)
    html = content.answer(read_upload(str(path)))
    panels = html.split('<article class="panel ')[1:]
    assert [panel.split('"')[0] for panel in panels] == DEPTHS and "a cell.png" in html
    for model, panel in zip(DEPTHS, panels, strict=True):
        slow = slow_probabilities(made / f"weights/tiny/{model}/best.safetensors", [path], staged)[0]
        text = texts(panel)
        assert all(f"{name} {probability(share)}" in text for name, share in zip(content.classes, slow, strict=True))
        assert panel.count("<img") == 2 and f"evidence for {content.classes[slow.argmax()]}" in text
    assert "correct" not in texts(html)  # the true class is unknown


def test_an_upload_unlike_the_training_images_gets_no_class_and_doubt_is_said(made: Path, tmp_path: Path) -> None:
    paths = [made / "csv" / "tiny" / "valid" / f"{index}.png" for index in range(VALID)]
    preprocessing = make_content(made).models[0].preprocessing
    windows = torch.from_numpy(np.stack([preprocessing.crop(read_image(path)) for path in paths]))
    values = statistics(network_input(windows, preprocessing)).double().numpy()
    limit = 1.001 * float(distances(values, typical_of(values)).max())
    fields: dict[str, Any] = {
        "typical": typical_of(values),
        "confidence": {"unlike": limit, "certain": 0.999, "certain_risk": 0.013},
    }
    save_staged(tmp_path / "weights", **fields)
    content = make_content(tmp_path, lists=False)
    stripes = read_image(paths[0])
    stripes[20:28:2] = 255
    cell_bytes, striped = paths[0].read_bytes(), png(stripes)
    refused, doubtful = texts(content.answer(("x.png", striped))), texts(content.answer(("cell.png", cell_bytes)))
    assert "x.png: unlike the training images, so no class is predicted" in refused and "%" not in refused
    assert "All 3 models are uncertain" in doubtful and doubtful.count(", below 99.9 %") == len(DEPTHS)
    assert doubtful.count("wrong on 1.3 % of them") == len(DEPTHS)
    (tmp_path / "x.png").write_bytes(striped)
    (tmp_path / "cell.png").write_bytes(cell_bytes)
    html = content.table([str(tmp_path / "x.png"), str(tmp_path / "cell.png")])
    assert texts(html).count("uncertain") == len(DEPTHS) and "unlike the training images" in html
    link = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', html)
    assert link
    assert pd.read_csv(io.BytesIO(base64.b64decode(link[1])))["verdict"].tolist() == [np.nan, *["uncertain"] * 3]


def test_several_uploads_give_a_table_and_a_csv(content: Content, made: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "<b>1.png", tmp_path / "white.png", tmp_path / "2.png"]
    for seed in (0, 2):
        Image.fromarray(cell(np.random.default_rng(seed), seed // 2)).save(paths[seed])
    paths[1].write_bytes(png(np.full((50, 50, 3), 255, np.uint8)))
    html = content.table([str(path) for path in paths])
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert [texts(row).split()[0] for row in rows] == ["image", "&lt;b&gt;1.png", "white.png", "2.png"]
    reason = "of one colour, or without a cell"
    assert reason in rows[2] and "<img" not in rows[2] and rows[1].count("<td>") == len(DEPTHS)
    link = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', html)
    assert link
    saved = pd.read_csv(io.BytesIO(base64.b64decode(link[1])), keep_default_na=False)
    assert saved["image"].tolist() == ["<b>1.png"] * 3 + ["white.png"] + ["2.png"] * 3
    assert saved["model"].tolist() == [*DEPTHS, "", *DEPTHS] and saved["reason"][3].startswith(reason)
    for index, model in enumerate(DEPTHS):
        slow = slow_probabilities(made / f"weights/tiny/{model}/best.safetensors", [paths[0]], staged)[0]
        shares = saved.loc[index, ["probability_0", "probability_1"]].to_numpy(dtype=float)
        np.testing.assert_allclose(shares, slow, atol=1e-4)
        assert saved["predicted"][index] == content.classes[slow.argmax()]


def test_without_evidence_the_stage_before_is_used(content: Content, monkeypatch: Patch) -> None:
    stages = []

    def positive_at_layer2(*args: Any) -> Any:
        row, cam = explain(*args)
        stages.append(args[3])
        return row, cam.abs() if args[3] == "layer2" else -cam.abs()

    monkeypatch.setattr(networks, "explain", positive_at_layer2)
    monkeypatch.setattr(networks, "stages_to_try", lambda *_: ["layer4", "layer3", "layer2"])
    default = predict_and_explain(content.models[0], random_image(4), CPU)
    assert stages == ["layer4", "layer3", "layer2"] and (default.stage, default.has_evidence) == ("layer2", True)
    layer3 = predict_and_explain(content.models[0], random_image(4), CPU, stage="layer3")
    assert (layer3.stage, layer3.has_evidence) == ("layer3", False)
    np.testing.assert_array_equal(layer3.probabilities, default.probabilities)


def test_predictions_for_a_valid_image_are_compared_with_its_true_class(content: Content, valid: Valid) -> None:
    for index, label in enumerate(valid.images.labels[:4]):
        html = content.answer(index)
        assert f"true class <b>{content.classes[label]}</b>" in html
        for model, panel in zip(content.models, html.split('<article class="panel ')[1:], strict=True):
            correct = valid.probabilities[model.name][index].argmax() == label
            assert ("✓ correct" in panel) == correct and ("✗ wrong" in panel) == (not correct)


def test_the_heat_map_is_of_the_requested_class_and_stage(content: Content) -> None:
    for label in (0, 1):
        text = texts(content.answer(0, label, "layer2"))
        assert text.count(f"evidence for {content.classes[label]}") == 3 and text.count("layer2") == 3
    assert "layer3" in content.answer(0, 99, "") or "layer2" in content.answer(0, 99, "")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("notes.png", b"no image at all", "notes.png: not an image that Pillow can read. Try another image"),
        ("empty.png", b"", "empty.png: the file is empty. Try"),
        ("half.png", png(random_image(0))[:900], "half.png: damaged or truncated"),
        ("<b>.png", b"", "&lt;b&gt;.png: the file is empty"),
        ("vast.png", png(np.zeros((60, 60, 3), np.uint8)), "vast.png: larger than 3,000 pixels"),
        ("heavy.bmp", b"\0" * 10_001, "heavy.bmp: larger than"),
        ("white.png", png(np.full((50, 50, 3), 255, np.uint8)), "white.png: of one colour, or without a cell"),
    ],
)
def test_a_bad_upload_is_an_error(content: Content, monkeypatch: Patch, name: str, data: bytes, message: str) -> None:
    monkeypatch.setattr(answers, "MAX_PIXELS", 3000)
    monkeypatch.setattr(answers, "MAX_BYTES", 10_000)
    html = content.answer((name, data))
    assert message in html and 'role="alert"' in html and "<img" not in html and "Traceback" not in html


def test_attributions_of_an_image(content: Content, made: Path) -> None:
    """The page's maps are those of the explainer; for two classes one is the other's negative."""
    assert content.valid
    path = made / "csv" / "tiny" / "valid" / "0.png"
    model = content.models[1]
    html = content.attributions(0, "resnet50", 1)
    assert "which pixels speak for leukemia blast in ResNet50" in texts(html) and html.count("<img") == 4
    label, input_image, maps = networks.attribute_image(model, read_image(path), CPU, 1)
    assert label == 1 and list(maps) == ["gradcam", "integrated_gradients", "occlusion"]
    image = networks.network_inputs(model, read_image(path), CPU)[2][0]
    for method, drawn in maps.items():
        values = Explainer(model.members[0][0], CPU, ["layer2"], empty=empty_colour(model.preprocessing)).attribute(
            method, image, 1
        )
        assert drawn.shape == input_image.shape == (32, 32, 3)
        limit = 0.3 * strength([values])
        red, blue = (drawn[mask].astype(int) for mask in (values > limit, values < -limit))
        assert (red[:, 0] > red[:, 2]).all() and (blue[:, 0] < blue[:, 2]).all() and len(red)
        encoded = base64.b64encode(png(drawn)).decode()
        assert encoded in html, method
    predicted = networks.attribute_image(model, read_image(path), CPU, None)[0]
    assert predicted == int(networks.predict_image(model, read_image(path), CPU).argmax())
    upload = content.attributions(("cell.png", path.read_bytes()), "resnet18")
    assert "cell.png: which pixels" in texts(upload)
    assert 'role="note"' in content.attributions(None, "resnet18")
    assert "notes.png: not an image" in content.attributions(("notes.png", b"no image"), "resnet18")


def test_a_deleted_valid_image_is_an_error_message(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    with inside(tmp_path / "copy", staged):
        content = make_content(tmp_path / "copy", ["resnet18"])
        (tmp_path / "copy" / "csv" / "tiny" / "valid" / "0.png").unlink()
        html = content.answer(0)
    assert "No such file" in html and str(tmp_path) not in html


def test_of_a_large_upload_only_one_byte_too_many_is_read(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(answers, "MAX_BYTES", 100)
    (tmp_path / "large").write_bytes(b"\0" * 1000)
    assert len(read_upload(str(tmp_path / "large"))[1]) == 101


def test_names_of_classes_and_data_sets_are_escaped(content: Content) -> None:
    bad = "<script>alert(1)</script>{{value}}${1+1}"
    for html in (notice(bad), header(SAY, bad, [bad, "x"], 3, ["ResNet18"])):
        assert "<script" not in html and "{" not in html and "$" not in html
    html = Content(bad, [bad, "x"], content.models, CPU, content.valid).answer(0)
    assert "<script" not in html and "{{" not in html and "${" not in html


def test_the_header_names_the_models() -> None:
    assert "ResNet18, ResNet50 and VGG-16, implemented by hand" in header(
        SAY, "a", ["x"], 1, ["ResNet18", "ResNet50", "VGG-16"]
    )


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0, 0, 0], "All 3 models predict normal"),
        ([0, 0], "ResNet18 and ResNet50 predict normal"),
        ([0], "ResNet18 predicts normal"),
        ([0, 1, 0], "ResNet18 and ResNet152 predict normal; ResNet50 predicts leukemia blast"),
        ([None, 1, None], "ResNet18 and ResNet152 are uncertain; ResNet50 predicts leukemia blast"),
        ([None, None, None], "All 3 models are uncertain"),
        ([0, None], "ResNet18 predicts normal; ResNet50 is uncertain"),
    ],
)
def test_the_verdict_names_models_and_classes(content: Content, labels: list[int | None], text: str) -> None:
    pairs = zip(content.models, labels, strict=False)
    predictions: Any = [
        SimpleNamespace(model=model, predicted=label or 0, certain=label is not None) for model, label in pairs
    ]
    assert texts(verdict(SAY, predictions, content.classes)).replace(" ;", ";").strip() == text


@given(st.floats(0, 1))
def test_a_probability_is_shown_as_100_only_if_it_is_1(share: float) -> None:
    text = probability(share)
    assert (text == "100.0 %") == (share == 1)
    if text[0].isdigit():
        assert abs(float(text.split()[0]) - 100 * share) <= 0.0500001


# ------------------------------------------------------------------------------------------------------ valid


def made_valid(seed: int, count: int, classes: int) -> Valid:
    """A list without images, and two models' random predictions."""
    rng = np.random.default_rng(seed)
    rows = {model: rng.dirichlet(np.ones(classes), count) for model in ("resnet18", "resnet50")}
    labels = rng.integers(0, classes, count)
    names = [f"class {label}" for label in range(classes)]
    images = ImageList(Path("valid.csv"), [f"{i}.png" for i in range(count)], [Path()] * count, labels)
    return Valid(images, names, Store(np.zeros((0, 1, 1, 3), np.uint8), np.arange(count), []), rows)


FILTER = {
    "label": st.none() | st.integers(0, 3),
    "result": st.sampled_from(["all", "correct", "wrong", "differ"]),
    "low": st.floats(0, 1),
    "high": st.floats(0, 1),
    "pair": st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)),
    "order": st.sampled_from(["list", "least", "most"]),
}


@given(st.builds(made_valid, st.integers(0, 50), st.integers(1, 40), st.integers(2, 4)), st.fixed_dictionaries(FILTER))
def test_a_filter_keeps_the_images_that_match_it(valid: Valid, options: dict[str, Any]) -> None:
    indices = valid.choose("resnet18", **options).tolist()
    expected = []
    for index, (true, row) in enumerate(zip(valid.images.labels, valid.probabilities["resnet18"], strict=True)):
        predicted, by_other = int(row.argmax()), int(valid.probabilities["resnet50"][index].argmax())
        correct = predicted == true
        results = {"all": True, "correct": correct, "wrong": not correct, "differ": predicted != by_other}
        matches = results[options["result"]] and options["low"] <= row.max() <= options["high"]
        if matches and options["label"] in (None, true) and options["pair"] in (None, (true, predicted)):
            expected.append(index)
    assert sorted(indices) == expected
    confidences = [valid.probabilities["resnet18"][index].max() for index in indices]
    if options["order"] == "list":
        assert indices == expected
    else:
        assert confidences == sorted(confidences, reverse=options["order"] == "most")


@given(st.builds(made_valid, st.integers(0, 50), st.integers(1, 60), st.integers(2, 4)))
def test_the_confused_pairs_are_all_errors_the_most_frequent_first(valid: Valid) -> None:
    pairs = valid.confused("resnet18", limit=16)
    counts = [count for _, _, count in pairs]
    assert counts == sorted(counts, reverse=True) and all(true != predicted for true, predicted, _ in pairs)
    assert sum(counts) == len(valid.choose("resnet18", result="wrong"))
    assert all(len(valid.choose("resnet18", pair=(true, predicted))) == count for true, predicted, count in pairs)


def test_the_gallery_has_pages(content: Content, monkeypatch: Patch) -> None:
    monkeypatch.setattr(answers, "PAGE_SIZE", 5)
    indices, pages = np.arange(VALID), []
    for number in range(3):
        html, shown, count = content.gallery(indices, number, "resnet18")
        assert shown == number
        assert count == f"{5 * number + 1}–{min(5 * number + 5, VALID)} of {VALID} images"
        pages += [int(index) for index in re.findall(r'data-index="(\d+)"', html)]
    assert pages == indices.tolist()
    assert content.gallery(indices, 99, "resnet18")[1] == 2 and content.gallery(indices, -1, "resnet18")[1] == 0
    assert content.gallery(indices[:0], 1, "resnet18") == ("", 0, "No image passes these filters.")


def test_a_thumbnail_shows_the_prediction(content: Content, valid: Valid) -> None:
    for index, label in enumerate(valid.images.labels[:4]):
        text = texts(content.thumbnails([index], "resnet18")).replace("\N{NO-BREAK SPACE}", " ")
        true = content.classes[label]
        predicted = content.classes[int(valid.probabilities["resnet18"][index].argmax())]
        assert (f"✓ {true} ·" in text) if predicted == true else (f"✗ {predicted}, true: {true} ·" in text)


def test_the_examples_begin_with_one_of_each_class(content: Content, valid: Valid) -> None:
    examples = content.examples()
    assert sorted(valid.images.labels[examples[:2]].tolist()) == [0, 1]
    assert len(set(examples)) == len(examples) <= answers.EXAMPLES


# ------------------------------------------------------------------------------------------------------ saved tables


@pytest.fixture
def evaluated(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy with the accuracy of resnet18 in its checkpoint and its predictions in a table, as train.py and evaluate.py leave
    them."""
    folder = tmp_path / "evaluated"
    shutil.copytree(made, folder)
    with inside(folder, staged):
        content = make_content(folder, ["resnet18"])
        assert content.valid
        metrics = {"valid_accuracy": content.models[0].accuracy[0], "valid_images": VALID}
        save_staged(folder / "weights", ["resnet18"], metrics=metrics)
        rows = content.valid.probabilities["resnet18"]
        images = content.valid.images
        (folder / "report" / "tiny").mkdir(parents=True)
        evaluate.write_predictions(folder / "report/tiny/valid_resnet18.csv", images, rows)
        yield folder


def test_a_saved_table_is_used_only_with_its_weights(evaluated: Path, capsys: Capture) -> None:
    table = pd.read_csv(evaluated / "report/tiny/valid_resnet18.csv")
    content = make_content(evaluated, ["resnet18"])
    assert content.valid and "which match these weights" in capsys.readouterr().out
    assert content.valid.probabilities["resnet18"][:, 0].tolist() == table["probability_0"].tolist()
    best = evaluated / "weights/tiny/resnet18/best.safetensors"
    tensors = read_tensors(best)
    found = {"resnet18": (content.valid.images.labels, content.valid.probabilities["resnet18"])}
    write_metrics(evaluated / "report/tiny/metrics.csv", metrics_table(found, content.classes))
    assert len(make_content(evaluated, ["resnet18"]).results)
    tensors["model.fc.weight"] = tensors["model.fc.weight"] * 1.05  # changes no predicted class
    save_checkpoint(best, read_about(best), tensors)
    content = make_content(evaluated, ["resnet18"])
    assert content.valid and "is of other weights" in capsys.readouterr().out
    assert content.results.empty  # although the accuracy is the same
    assert np.abs(content.valid.probabilities["resnet18"][:, 0] - table["probability_0"]).max() > 1e-3


FAULTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "order": lambda table: table.iloc[[1, 0, *range(2, VALID)]],
    "label": lambda table: table.assign(label=table["label"].mask(table.index == 3, 1 - table["label"])),
    "sum": lambda table: table.assign(probability_0=table["probability_0"].mask(table.index == 3, 2.0)),
    "accuracy": lambda table: table.assign(  # another prediction for one image
        probability_0=table["probability_0"].mask(table.index == 4, table["probability_1"]),
        probability_1=table["probability_1"].mask(table.index == 4, table["probability_0"]),
    ),
    "column": lambda table: table.drop(columns="probability_1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_saved_table_that_does_not_match_the_list_is_ignored(evaluated: Path, valid: Valid, fault: str) -> None:
    path = evaluated / "report/tiny/valid_resnet18.csv"
    about = read_about(evaluated / "weights/tiny/resnet18/best.safetensors")
    assert read_table(path, valid.images, about, d4=False) is not None
    FAULTS[fault](pd.read_csv(path)).to_csv(path, index=False)
    assert read_table(path, valid.images, about, d4=False) is None
    path.write_bytes(b"\x80\0\x80")
    assert read_table(path, valid.images, about, d4=False) is None
    path.unlink()
    assert read_table(path, valid.images, about, d4=False) is None


# ------------------------------------------------------------------------------------------------------ figures


def test_the_curves_are_the_histories() -> None:
    figure = curves_figure({"resnet18": pd.DataFrame(HISTORY), "resnet152": pd.DataFrame(HISTORY[:2])})
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines["ResNet18, valid"].y) == pytest.approx([60, 80, 75])
    assert list(lines["ResNet152, training"].y) == pytest.approx([50, 70])
    stars = [(trace.x[0], trace.y[0]) for trace in figure.data if trace.marker.symbol == "star"]
    assert stars == [(2, pytest.approx(80)), (2, pytest.approx(80))]
    tie = curves_figure({"resnet18": pd.DataFrame([HISTORY[1], HISTORY[1] | {"epoch": 2, "valid_loss": 0.4}])})
    assert tie.data[-1].x == (2,)  # the lower loss, as in training
    loss = curves_figure({"resnet18": pd.DataFrame(HISTORY)}, "loss")
    assert [list(trace.y) for trace in loss.data] == [[0.7, 0.5, 0.3], [0.65, 0.45, 0.5], [0.45]]
    scored = pd.DataFrame(HISTORY).assign(valid_f1=[0.5, 0.6, 0.75])
    f1 = curves_figure({"resnet18": scored}, "f1")
    assert [list(trace.y) for trace in f1.data] == [pytest.approx([50, 60, 75]), [pytest.approx(75)]]


def test_no_line_is_black_in_the_dark_theme_or_white_in_the_light_one() -> None:
    histories = {model: pd.DataFrame(HISTORY) for model in DEPTHS}
    for dark, forbidden in ((True, "#000000"), (False, "#F2F2F2")):
        colours = {trace.line.color for trace in curves_figure(histories, dark=dark).data if trace.line.color}
        assert forbidden not in colours and len(colours) == 3


def test_a_history_without_losses_or_without_a_valid_accuracy_is_drawn() -> None:
    bare = pd.DataFrame([{"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": np.nan}])
    assert len(curves_figure({"resnet18": bare}).data) == len(curves_figure({"resnet18": bare}, "loss").data) == 2
    assert len(curves_figure({}).data) == 0


def test_the_matrix_shows_counts_and_its_colours_shares() -> None:
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 2]])
    figure = confusion_figure(matrix, ["a", "<b>", "c"], "resnet50")
    assert np.array(figure.data[0].z) == pytest.approx(np.array([[80, 20, 0], [0, 0, 0], [25, 25, 50]]))
    notes = {(note.y, note.x): note.text for note in figure.layout.annotations}
    assert notes == {(0, 0): "8", (0, 1): "2", (2, 0): "1", (2, 1): "1", (2, 2): "2"}
    assert figure.layout.title.text == "ResNet50: accuracy 71.43 %"
    hover = figure.data[0].customdata
    assert hover[0][1] == "<b>a</b> predicted as <b>&lt;b&gt;</b><br>2 images, 20.0 % of the true class"
    assert hover[1][1] == "<b>&lt;b&gt;</b> classified correctly<br>0 images, 0.0 % of the true class"
    errors = confusion_figure(matrix, ["a", "b", "c"], "resnet50", errors_only=True)
    assert np.array(errors.data[0].z) == pytest.approx(np.array([[0, 20, 0], [0, 0, 0], [25, 25, 0]]))
    assert errors.data[0].zmax == 25 and len(errors.layout.annotations) == 3


def test_the_matrices_of_all_models_share_one_scale(content: Content, valid: Valid, monkeypatch: Patch) -> None:
    tops = []
    monkeypatch.setattr("lab.page.layout.confusion_figure", lambda *args: tops.append(args[-2]))
    draw, *_ = [
        call.fn for call in build(content).fns.values() if call.fn and "errors" in signature(call.fn).parameters
    ]
    for errors in (False, True):
        draw(DEPTHS, errors, False)
        highest = [coloured_shares(valid.matrix(model), errors).max() for model in DEPTHS]
        assert len(set(highest)) > 1 and tops == [max(highest)] * len(DEPTHS)
        tops.clear()
    figure = confusion_figure(np.array([[8, 2], [1, 9]]), ["a", "b"], "resnet50", errors_only=True, top=40.0)
    assert figure.data[0].zmax == 40


# ------------------------------------------------------------------------------------------------------ the command


def test_a_missing_package_is_named(made: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "lab.page.content", None)
    with inside(made, staged), pytest.raises(UserError, match=r"--serve needs .*; `python -m pip install"):
        command(demo, "--data", "csv/tiny", "--device", "cpu", "--serve")


def test_images_and_serve_together_are_refused() -> None:
    with pytest.raises(UserError, match="--serve takes no images"):
        command(demo, "--serve", "cell.png")


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("models", [["resnet50"], ["resnet18", "resnet152"], DEPTHS])
def test_the_models_are_served(made: Path, tmp_path: Path, monkeypatch: Patch, models: list[str], lists: bool) -> None:
    for model in models:
        shutil.copytree(made / "weights" / "tiny" / model, tmp_path / "weights" / "tiny" / model)
    if lists:
        shutil.copytree(made / "csv", tmp_path / "csv")
    calls: list[tuple[Content, str, int | None, str]] = []
    monkeypatch.setattr("lab.page.server.serve", lambda *args: calls.append(args))
    with inside(tmp_path, staged):
        command(
            demo,
            "--data",
            "csv/tiny",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--serve",
            "--port",
            "8123",
            "--language",
            "zh",
        )
        build(calls[0][0])
    ((content, host, port, language),) = calls
    assert [model.name for model in content.models] == models and (host, port, language) == ("127.0.0.1", 8123, "zh")
    assert (content.valid is not None) == lists and (lists or "no lists found" in content.why)
