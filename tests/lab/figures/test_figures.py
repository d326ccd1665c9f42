"""Figures: what they show compared with their input, the files written, and invalid input."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import auc

from lab.errors import UserError
from lab.evaluation.metrics import classification_metrics
from lab.figures import accuracy, confusion, galleries, roc, style
from models.catalog import find
from tests.made import DEPTHS

RANDOM = np.random.default_rng(5)
TITLES = ["ResNet18", "ResNet50", "ResNet152"]


def history(valid: list[float], training: list[float] | None = None) -> pd.DataFrame:
    """Return a history with these accuracies (0…1)."""
    shares = {"train_accuracy": training or valid, "valid_accuracy": valid}
    return pd.DataFrame({"epoch": range(1, len(valid) + 1), **shares})


def texts(axes: Axes) -> list[str]:
    """Return the texts inside a pair of axes."""
    return [text.get_text() for text in axes.texts]


def legends(figure: Figure) -> list[str]:
    """Return the lines of the figure's legends."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def points(line: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of a line."""
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def clipped(figure: Figure) -> list[str]:
    """Return what extends beyond the figure's edge when it is drawn: axes with labels, legends, texts."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = {f"axes {n}": axes.get_tightbbox(renderer) for n, axes in enumerate(figure.axes)}
    boxes |= {f"legend {n}": legend.get_window_extent(renderer) for n, legend in enumerate(figure.legends)}
    boxes |= {text.get_text(): text.get_window_extent(renderer) for text in figure.texts}
    edges = {name: box.extents for name, box in boxes.items() if box is not None}  # left, bottom, right, top
    return [n for n, (x0, y0, x1, y1) in edges.items() if min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1]


def cells(k: int, masked: bool = True) -> list[dict[str, Any]]:
    """Return rows for the preprocessing figure; the window of the first extends beyond the raw image."""
    raw = RANDOM.integers(0, 256, (24, 30, 3)).astype(np.uint8)
    row = {"raw": raw, "mask": raw[..., 0] > 99 if masked else None, "cropped": raw[:12, :12], "input": raw[:6, :6]}
    return [row | {"class_name": f"class {i}", "window": (-4 if i == 0 else 3, 2, 20)} for i in range(k)]


# ------------------------------------------------------------------------------------------------------------ accuracy


def test_accuracy_lines_are_the_histories_in_percent() -> None:
    histories = {
        "resnet18": history([0.8, 0.9, 0.875], [0.7, 0.9, 1.0]),
        "resnet50": history([0.75, 0.85]),
        "resnet152": history([0.9, float("nan"), 0.95, 0.95]),
    }
    figure = accuracy.accuracy_figure(histories, "Accuracy per epoch")
    axes = figure.axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() in ("-", "--")]
    assert len(lines) == 2 * len(histories)
    for n, (model, table) in enumerate(histories.items()):
        training, valid = lines[2 * n : 2 * n + 2]
        assert training.get_linestyle() == "--" and valid.get_linestyle() == "-"
        assert training.get_linewidth() < valid.get_linewidth()
        np.testing.assert_allclose(points(training)[1], table["train_accuracy"] * 100)
        np.testing.assert_allclose(points(valid)[1], table["valid_accuracy"] * 100)
        assert points(valid)[0].tolist() == table["epoch"].tolist()
        assert training.get_color() == valid.get_color() == find(model).colour
    assert "%" in axes.get_ylabel() and axes.get_xlabel() == "Epoch"
    stars = {tuple(np.ravel(points(line))) for line in axes.lines if line.get_marker() == "*"}
    assert stars == {(2, 90.0), (2, 85.0), (3, 95.0)}  # the first of two equal epochs
    assert "ResNet18: best 90.00 % (epoch 2)" in legends(figure)
    assert figure.get_suptitle() == "Accuracy per epoch"
    assert clipped(figure) == []


def test_of_equally_accurate_epochs_the_one_with_the_lowest_loss_is_best() -> None:
    table = history([0.9, 0.95, 0.95, 0.95]).assign(valid_loss=[0.1, 0.4, 0.2, 0.3])
    assert "ResNet18: best 95.00 % (epoch 3)" in legends(accuracy.accuracy_figure({"resnet18": table}))


def test_a_bad_first_epoch_does_not_compress_the_axis_and_is_noted() -> None:
    rest = [0.95, 0.96, 0.97, 0.97, 0.98, 0.98, 0.98]
    axes = accuracy.accuracy_figure({"resnet50": history([0.5, *rest], [0.93, *rest])}).axes[0]
    low, high = axes.get_ylim()
    assert 80 <= low < 93 and high >= 100
    assert [x for line in axes.lines if line.get_marker() == 7 for x in points(line)[0]] == [1]  # an arrow
    assert texts(axes) == ["▾ 1 point is below the axis; the lowest: 50.0 %, ResNet50, testing, epoch 1"]


@pytest.mark.parametrize("valid", [[0.5], [0.1, 0.9], [0.6, 0.7, 0.75, 0.8, 0.82, 0.85], [float("nan")], [0.0, 1.0]])
def test_without_an_outlier_every_point_is_on_the_axis(valid: list[float]) -> None:
    figure = accuracy.accuracy_figure({"resnet18": history(valid)})
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    shares = np.array(valid)[~np.isnan(valid)] * 100
    assert ((low <= shares) & (shares <= high)).all() and texts(axes) == []
    assert all(1 <= tick == int(tick) <= len(valid) for tick in axes.get_xticks())
    assert ("ResNet18: no testing accuracy" in legends(figure)) == np.isnan(valid).all()


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "no history"),
        ({"resnet18": history([])}, "has no epoch"),
        ({"resnet18": history([0.5]).drop(columns="valid_accuracy")}, "lacks the column valid_accuracy"),
        ({"resnet18": history([97.0])}, "outside 0…1"),
    ],
)
def test_an_invalid_history_is_refused(histories: dict[str, pd.DataFrame], message: str) -> None:
    with pytest.raises(UserError, match=message):
        accuracy.accuracy_figure(histories)


# ----------------------------------------------------------------------------------------------------------- confusion


@pytest.mark.parametrize("k", [2, 4, 11])
def test_confusion_shows_counts_and_shares_of_the_rows(k: int) -> None:
    matrix = RANDOM.integers(0, 50, (k, k)) + np.eye(k, dtype=int) * 900
    names = [f"a rather long class name, number {i}" for i in range(k)]
    figure = confusion.confusion_figure(matrix, names, "ResNet18")
    counts, shares = figure.axes
    assert texts(counts) == [str(n) for n in matrix.ravel()]
    assert texts(shares) == [f"{100 * n / row.sum():.1f}" for row in matrix for n in row]
    assert "%" in shares.get_title() and "Number" in counts.get_title()
    assert (counts.get_xlabel(), counts.get_ylabel()) == ("Predicted class", "True class")
    assert len({tick.get_text() for tick in counts.get_yticklabels()}) == k  # shortened names are still different
    assert clipped(figure) == []


def test_confusion_of_a_class_without_images_has_no_share() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = confusion.confusion_figure(np.array([[3, 1], [0, 0]]), ["x", "y"]).axes[1]
        empty = confusion.confusions_figure({"resnet18": np.zeros((2, 2), dtype=int)}, ["x", "y"]).axes[0]
    assert texts(shares) == ["75.0", "25.0", "–", "–"]
    assert empty.get_title() == "ResNet18: no images"


def test_chinese_names_have_glyphs() -> None:
    """Matplotlib warns of each character for which it draws a box."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.png(confusion.confusion_figure(np.eye(2, dtype=int), ["正常", "異常"], "資料集"))


def test_confusions_of_three_models() -> None:
    matrices = {model: np.array([[47, 3], [n, 100 - n]]) for n, model in enumerate(DEPTHS)}
    figure = confusion.confusions_figure(matrices, ["normal", "blast"])
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == TITLES
    assert texts(figure.axes[1]) == ["94.0 %\n47", "6.0 %\n3", "1.0 %\n1", "99.0 %\n99"]
    assert figure.axes[1].get_title() == "ResNet50: accuracy 97.33 %"  # 146 of 150
    assert clipped(figure) == []
    with pytest.raises(UserError, match="no confusion matrix"):
        confusion.confusions_figure({}, ["normal", "blast"])


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3)), [[1, -1], [0, 1]], [[0.5, 0.5], [0, 1]]])
def test_only_a_matrix_of_counts_is_drawn(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="counts of 2 classes"):
        confusion.confusion_figure(matrix, ["x", "y"])


# ----------------------------------------------------------------------------------------------------------------- ROC


def scored(k: int, n: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) of all classes, and the probabilities (N, K) of a model that is better for a higher ``skill``."""
    labels = np.arange(n) % k
    logits = RANDOM.normal(size=(n, k)) + skill * np.eye(k)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("k", "skill", "insets"), [(2, 0.5, 0), (2, 8.0, 1), (4, 0.5, 0)])
def test_roc_has_the_area_in_its_legend_and_in_the_metrics(k: int, skill: float, insets: int) -> None:
    names = [f"class {i}" for i in range(k)]
    labels, probabilities = scored(k, 200, skill)
    figure = roc.roc_figure({"resnet18": (labels, probabilities)}, names, "ROC")
    axes = figure.axes[0]
    table = classification_metrics(labels, probabilities, names).set_index(["class", "metric"])["value"]
    area = table["overall", "auc"]
    assert f"ResNet18: AUC {area:.4f}" in legends(figure)
    thick = next(line for line in axes.lines if line.get_linewidth() == 2)
    assert auc(*points(thick)) == pytest.approx(area, abs=0.005)
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert len(thin) == (k if k > 2 else 0)
    for line, name in zip(thin, names, strict=False):
        assert auc(*points(line)) == pytest.approx(table[name, "auc"])
    assert len(axes.child_axes) == insets
    assert "specificity" in axes.get_xlabel() and "sensitivity" in axes.get_ylabel()
    assert clipped(figure) == []


def test_roc_of_labels_of_one_class_is_undefined() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = roc.roc_figure({"resnet18": (np.ones(5, dtype=int), np.full((5, 2), 0.5))}, ["x", "y"])
    assert "ResNet18: AUC undefined (labels of one class only)" in legends(figure)
    with pytest.raises(UserError, match="no model"):
        roc.roc_figure({}, ["x", "y"])


# -------------------------------------------------------------------------------------------------------------- images


def test_preprocessing_shows_each_step_and_the_window() -> None:
    rows = cells(2)
    rows[1]["mask"] = None
    figure = galleries.preprocessing_figure(rows)
    panels = np.reshape(np.array(figure.axes, dtype=object), (2, 5))
    for row, (raw, mask, window, cropped, network) in zip(rows, panels, strict=True):
        for axes, name in ((raw, "raw"), (cropped, "cropped"), (network, "input")):
            np.testing.assert_array_equal(axes.images[0].get_array(), row[name])
        x, y, side = row["window"]
        frame = window.patches[-1]
        assert (frame.get_x(), frame.get_y(), frame.get_width()) == (x - 0.5, y - 0.5, side)
        assert window.get_xlim()[0] <= x - 0.5  # also outside the image
        assert raw.get_ylabel() == row["class_name"] and raw.get_xlabel() == "30 × 24 px"
        if row["mask"] is None:
            assert "none found" in texts(mask)[0]
        else:
            np.testing.assert_array_equal(mask.images[0].get_array(), row["mask"])
    assert clipped(figure) == []
    assert len(galleries.preprocessing_figure(cells(2, masked=False)).axes) == 2 * 4
    with pytest.raises(UserError, match="no image"):
        galleries.preprocessing_figure([])


def test_augmented_views_are_beside_their_original() -> None:
    images = RANDOM.integers(0, 256, (2, 4, 5, 5, 3)).astype(np.uint8)
    figure = galleries.augmented_figure(list(images[:, 0]), [list(row[1:]) for row in images])
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(np.stack(drawn), images.reshape(8, 5, 5, 3))
    with pytest.raises(UserError, match="no image"):
        galleries.augmented_figure([], [])
    with pytest.raises(ValueError, match="same number"):
        galleries.augmented_figure(list(images[:, 0]), [list(images[0]), []])


def prediction(k: int, title: str = "cell.bmp") -> dict[str, Any]:
    """Return one row for the figure of predictions."""
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    return {"title": title, "image": image, "probabilities": {m: RANDOM.dirichlet(np.ones(k)) for m in DEPTHS}}


def test_the_bars_are_the_probabilities_in_percent() -> None:
    row = prediction(3, "a $pecial $name.bmp")
    figure = galleries.predictions_figure([row], ["a", "b", "c"])
    axes = figure.axes[1]
    widths = np.reshape([bar.get_width() for bar in axes.patches], (3, 3))  # type: ignore[attr-defined]
    np.testing.assert_allclose(widths, 100 * np.array(list(row["probabilities"].values())))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.get_xlabel() == "Probability (%)" and legends(figure) == TITLES
    assert clipped(figure) == []  # drawing fails or warns if a dollar sign starts a formula


def test_predictions_state_what_they_omit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "MAX_ROWS", 2)
    row = prediction(9)
    names = [f"class {i}" for i in range(9)]
    figure = galleries.predictions_figure([row] * 3, names, "Predictions")
    highest = np.max(list(row["probabilities"].values()), axis=0)
    ticks = sorted(tick.get_text() for tick in figure.axes[1].get_yticklabels())
    assert ticks == sorted(names[i] for i in np.argsort(-highest)[:5])
    assert "the 5 most probable of 9 classes" in figure.axes[-1].get_xlabel()
    assert "the first 2 of 3 images" in figure.get_suptitle().replace("\n", " ")
    assert len(figure.axes) == 2 * 2
    with pytest.raises(UserError, match="no image"):
        galleries.predictions_figure([], names)


# --------------------------------------------------------------------------------------------------------------- files


def test_every_figure_is_a_png_of_printable_resolution(tmp_path: Path) -> None:
    names, matrix = ["normal", "leukemia blast"], np.array([[9, 1], [2, 30]])
    views = [np.zeros((5, 5, 3), dtype=np.uint8)]
    figures = [
        *(accuracy.accuracy_figure({"resnet18": history([0.5, 0.9])}, "t") for _ in range(2)),
        confusion.confusion_figure(matrix, names, "t"),
        confusion.confusions_figure({"resnet18": matrix}, names, "t"),
        roc.roc_figure({"resnet18": scored(2, 40, 1)}, names, "t"),
        galleries.preprocessing_figure(cells(1)),
        galleries.augmented_figure(views, [views * 3], "t"),
        galleries.predictions_figure([prediction(2)], names),
    ]
    for number, figure in enumerate(figures):
        style.save(figure, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            image.load()
            assert image.format == "PNG" and image.info["dpi"][0] >= 149
            assert 600 <= image.width <= 4000 and 300 <= image.height <= 4000
            assert np.ptp(np.asarray(image.convert("L"))) > 100  # not empty
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
