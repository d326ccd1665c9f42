"""Classical heads: the whole way on generated cells; linear heads on many features, neighbours, importance against slow ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from lab.errors import UserError
from lab.figures.rates import THRESHOLDS, rates, rates_page
from lab.figures.style import new_figure
from studies import classical, heads, systems
from studies.classical import Training, by_class, fit_linear, fit_neighbours, fit_tree, linear, most_telling
from studies.features import HOG_SHAPE
from studies.heads import HEADS, cell_weights
from tests.docs.test_formats import PAGE
from tests.made import Capture, Patch, command, inside, make_data

FIGURES = ("classes_roc", "rates", "weights", "importance")

DRAWN = ("confusion", "roc", "rates", "weights", "importance")


def made(images: int = 60, width: int = 30, classes: int = 3, seed: int = 0) -> tuple[Training, np.ndarray, np.ndarray]:
    """Training images whose first features depend on the class, and features and labels of as many valid images."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(2 * images) % classes)
    values = rng.normal(3, 2, (2 * images, width)).astype(np.float32)
    values[:, :classes] += 3 * np.eye(classes, dtype=np.float32)[labels]
    return Training(values[:images], labels[:images], classes), values[images:], labels[images:]


def without_figures(patch: Patch) -> None:
    """Draw none of the figures that all heads have, because drawing takes most of the time."""
    for name in FIGURES:
        patch.setattr(heads, f"{name}_figure", lambda *_: new_figure(1, 1, ""))
    patch.setattr(systems, "draw_confusion", lambda *_: "")
    patch.setattr(heads, "rates_page", lambda *_: "")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all heads were fitted on HOG; the figures of one of them were drawn."""
    folder = tmp_path_factory.mktemp("fitted")
    make_data(folder / "csv" / "tiny")
    with inside(folder) as patch:
        command(heads, "--data", "tiny", "--features", "hog", "--head", "logreg")
        without_figures(patch)
        command(heads, "--data", "tiny", "--features", "hog", "--head", "tree", "knn", "svm")
    return folder


def test_the_whole_way(fitted: Path) -> None:
    """Predictions, description, submission in the order of the list, figures."""
    report, lists = fitted / "report" / "tiny", fitted / "csv" / "tiny"
    for head in HEADS:
        table = pd.read_csv(report / f"valid_hog_{head}.csv")
        rows = table.filter(like="probability_").to_numpy()
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=2e-5)
        assert (rows.argmax(axis=1) == table["prediction"]).mean() > 0.8  # others are ties at five decimals
        about = json.loads((report / f"run_hog_{head}.json").read_text())
        assert about["settings"]["chosen_on"] == "valid.csv" and about["settings"]["head"] == head
        assert about["macs"] is None and about["base"] == "hog"
        best = max(about["settings"]["grid"].values())
        assert best == pytest.approx((table["prediction"] == table["label"]).mean()) and best > 0.7
        answers = pd.read_csv(lists / f"submission_hog_{head}.csv")
        assert answers["ID"].tolist() == pd.read_csv(lists / "resnet_18_test.csv")["Path"].tolist()
        metrics = pd.read_csv(report / f"metrics_hog_{head}.csv")
        assert set(metrics["model"]) == {f"hog_{head}"}
    for name in (*(f"{name}_hog_logreg.png" for name in DRAWN), "tree_hog_tree.png"):
        assert (report / name).read_bytes().startswith(b"\x89PNG"), name
    assert not [*fitted.glob(".store/tiny/features/fitting_*")]
    for path in report.iterdir():  # docs/formats.md has a line for each
        stem = path.name.replace("_hog", "_<system>")
        for head in HEADS:
            stem = stem.replace(f"<system>_{head}", "<system>")
        assert f"`{stem}`" in PAGE, stem


def test_features_of_a_network_with_imagenet_weights_and_of_our_own(
    trained: Path, work: Patch, capsys: Capture
) -> None:
    options: list[Any] = ["--data", trained / "csv" / "tiny", "--device", "cpu", "--precision", "fp32"]
    without_figures(work)
    command(heads, *options, "--features", "efficientnet_lite0", "--size", "32", "--head", "logreg")
    command(heads, *options, "--features", "resnet18", "--weights", trained / "weights", "--head", "tree")
    report = Path("report/tiny")
    assert (report / "strongest_efficientnet_lite0_logreg.png").is_file() and (
        report / "tree_resnet18_tree.png"
    ).is_file()
    about = json.loads((report / "run_efficientnet_lite0_logreg.json").read_text())
    assert about["parameters"] == 4_652_008 - 1000 * 1281 + 2 * 1281 and about["size"] == 32
    assert about["training_flop"] == 2 * about["macs"] * 24
    assert len(about["settings"]["features"]["weights"]) == 64
    assert Path("csv/tiny/submission_resnet18_tree.csv").is_file()
    own = json.loads((report / "run_resnet18_tree.json").read_text())  # which includes the training of three epochs
    assert own["training_flop"] == (2 + 6 * 3) * own["macs"] * 24


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_heads_on_many_features_are_those_on_the_features_themselves(classes: int, monkeypatch: Patch) -> None:
    """With more features than images, in coordinates of the images; the oracle is scikit-learn on the features."""
    training, valid, labels = made(images=40, width=300, classes=classes)
    monkeypatch.setattr(classical, "WIDE", 100)
    assert training.coordinates.shape == (40, 40)
    standardised = training.scaler.transform(training.features), training.scaler.transform(valid)
    for value, found in fit_linear(training, "logreg", valid, labels):
        if value * 300 > 10:
            continue  # nearly without a penalty the solver stops early
        oracle = LogisticRegression(C=value, tol=1e-8, max_iter=10_000).fit(standardised[0], training.labels)
        np.testing.assert_allclose(found.predict(valid), oracle.predict_proba(standardised[1]), atol=0.01)
        assert found.parameters == 301 * classes


def test_an_svms_classes_are_those_of_its_scores_and_its_probabilities_fit_valid(monkeypatch: Patch) -> None:
    training, valid, labels = made()
    for _, found in fit_linear(training, "svm", valid, labels):
        assert found.weights is not None
        rows = found.predict(valid)
        direct = training.standardise(valid) @ found.weights
        assert np.corrcoef(np.log(rows[:, 0] / rows[:, 1]), direct[:, 0] - direct[:, 1])[0, 1] > 0.999
        np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert np.log(rows[np.arange(len(labels)), labels]).mean() > np.log(1 / 3)


def test_neighbours_are_those_of_the_cosine() -> None:
    training, valid, _ = made()
    z = (training.features - training.features.mean(0)) / training.features.std(0)
    queries = (valid - training.features.mean(0)) / training.features.std(0)
    similarity = queries @ z.T / np.linalg.norm(z, axis=1) / np.linalg.norm(queries, axis=1)[:, None]
    for k, found in fit_neighbours(training, np.ones(30), valid):
        nearest = np.argsort(-similarity, axis=1)[:, : int(k)]
        expected = np.eye(3)[training.labels[nearest]].mean(axis=1)
        np.testing.assert_allclose(found.predict(valid), expected)
        np.testing.assert_allclose(found.predict(valid.copy()), expected)  # not those kept for the grid


def test_a_tree_is_given_the_features_that_differ_most_between_the_classes(monkeypatch: Patch) -> None:
    training, valid, labels = made(images=200)
    training.features[:, 7] = 1  # tells nothing
    strength = most_telling(training)
    assert set(np.argsort(-strength)[:3]) == {0, 1, 2} and strength[7] == 0
    monkeypatch.setattr(classical, "COLUMNS", 3)
    for _, found in fit_tree(training, strength):
        assert found.columns is not None and found.columns.tolist() == [0, 1, 2]
        assert set(np.flatnonzero(found.strength)) <= {0, 1, 2}
    assert (found.predict(valid).argmax(axis=1) == labels).mean() > 0.6


def test_a_class_without_training_images_is_never_predicted() -> None:
    training, valid, labels = made(classes=3)
    fewer = Training(training.features[training.labels != 1], training.labels[training.labels != 1], 3)
    candidates = [fit_linear(fewer, "logreg", valid, labels), fit_tree(fewer, most_telling(fewer))]
    candidates += [fit_neighbours(fewer, np.ones(30), valid), fit_linear(fewer, "svm", valid, labels)]
    for found in candidates:
        rows = next(iter(found))[1].predict(valid)
        assert rows.shape == (60, 3) and rows[:, 1].max() < 1e-6
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)


def test_the_probabilities_of_an_svm_do_not_depend_on_the_scale_of_its_scores() -> None:
    """The temperature is sought in proportion to them. An ignored constant would leave it at a limit."""
    training, valid, labels = made()
    generator = np.random.default_rng(0)
    weights, bias = generator.normal(size=(30, 3)).astype(np.float32), np.zeros(3, np.float32)
    plain, tiny = (linear(training, scale * weights, bias, "svm", valid, labels) for scale in (1, 1e-4))
    np.testing.assert_allclose(plain.predict(valid), tiny.predict(valid), atol=1e-4)


def test_two_classes_have_the_probabilities_of_scikit_learn() -> None:
    training, valid, _ = made(classes=2)
    model = LogisticRegression().fit(training.features, training.labels)
    weights, bias = by_class(model.coef_, model.intercept_, model.classes_, 2)
    np.testing.assert_allclose(softmax(valid @ weights + bias, axis=1), model.predict_proba(valid), atol=1e-5)
    assert (
        weights[:, 0] == -weights[:, 1]
    ).all() and weights.any()  # so that each class has features that speak for it


def test_importance_is_that_of_the_features_in_use(monkeypatch: Patch) -> None:
    """Shuffling one that a head ignores loses nothing; the values are restored."""
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(300, 6)), rng.integers(0, 2, 300)
    values[:, 2] = labels

    def predict(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([1 - rows[:, 2], rows[:, 2]])

    before = values.copy()
    drops = heads.importance(predict, values, labels, [np.array([0, 1]), np.array([2]), np.array([3, 2])])
    np.testing.assert_array_equal(values, before)
    assert (drops[0] == 0).all() and drops[1].mean() == pytest.approx(0.5, abs=0.1) and drops[2].min() > 0.3


def test_hog_weights_are_drawn_where_their_cells_are() -> None:
    weights = np.random.default_rng(0).normal(size=(44_100, 2)).astype(np.float32)
    cells: dict[tuple[int, int], list[np.ndarray]] = {}
    for index, (row, column, down, right, _) in enumerate(product(*map(range, HOG_SHAPE))):
        cells.setdefault((row + down, column + right), []).append(weights[index])
    maps = cell_weights(weights)
    assert maps.shape == (2, 36, 36) and len(cells) == 36 * 36
    for place in ((0, 0), (0, 35), (17, 3), (35, 35)):
        np.testing.assert_allclose(maps[:, *place], np.mean(cells[place], axis=0), atol=1e-6)
    groups = heads.region_groups()
    assert len(groups) == 49 and np.array_equal(np.sort(np.concatenate(groups)), np.arange(44_100))
    assert heads.feature_name(source(), 0) == "cell 0, 0 at 0°"
    assert heads.feature_name(source(), 44_099) == "cell 35, 35 at 160°"


def source() -> Any:
    """A source of HOG features, without images."""
    return heads.Source("hog", "HOG", 360, 44_100, 0, None, {}, "", lambda *_: iter(()))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), min_size=1, max_size=30))
def test_rates_are_shares_of_images(pairs: list[tuple[int, int]]) -> None:
    labels, values = np.array([label for label, _ in pairs]), np.array([value / 20 for _, value in pairs])
    true, false = rates(labels, np.column_stack([values, 1 - values, 0 * values]), 0)
    for at in (0, 100, 250, 275, 500):
        for found, images in ((true, labels == 0), (false, labels != 0)):
            expected = (values[images] >= THRESHOLDS[at]).mean() if images.any() else np.nan
            assert found[at] == pytest.approx(expected, nan_ok=True)


def test_the_interactive_page_needs_no_network() -> None:
    rng = np.random.default_rng(0)
    page = rates_page(rng.integers(0, 2, 20), rng.dirichlet([1, 1], 20), ["a <b>", "c"], "T")
    assert "true-positive rate %{customdata[0]" in page and "<script src=" not in page and len(page) > 1_000_000
    assert "a <b>" not in page.split("Plotly.newPlot")[-1]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Patch]:
    """A working directory with a data set, and without figures."""
    make_data(tmp_path / "csv" / "tiny", counts=(6, 4, 3))
    with inside(tmp_path) as patch:
        yield patch


def refused(pattern: str, *options: str) -> None:
    """The command refuses these options with one line."""
    with pytest.raises(UserError, match=pattern) as error:
        command(heads, "--data", "tiny", *options)
    assert len(str(error.value).splitlines()) == 1


def test_what_cannot_be_fitted_is_refused_before_anything_is_computed(tiny: Patch) -> None:
    refused("there is no such checkpoint", "--features", "resnet18")
    refused("--size and --weights-file are for networks with ImageNet", "--features", "hog", "--size", "64")
    refused("--size 40: EfficientNet-Lite0", "--features", "efficientnet_lite0", "--size", "40")
    refused("needs --weights-file", "--features", "imagenet_resnet18")
    tiny.setattr(heads, "available_memory", lambda: 0.1)
    refused("HOG: tree on 6 training images need 1.0 GiB of memory, and 0.1 GiB", "--features", "hog", "--head", "tree")
    Path("csv/tiny/train.csv").write_text("Path,label\n./train/0.png,1\n./train/1.png,1\n")
    refused("train.csv: all images are of class leukemia blast; a head needs two", "--features", "hog")
    assert not Path(".store").exists() and not Path("report").exists()


def test_memory_that_is_needed_for_hog(monkeypatch: Patch) -> None:
    """Of 11,978 images: matrices of all pairs, or all features."""
    assert heads.available_memory() > 0
    monkeypatch.setattr(heads, "available_memory", lambda: 2.9)
    heads.check_memory(source(), 11_978, ["logreg", "tree"])
    with pytest.raises(UserError, match=r"knn on 11,978 training images need 3.0 GiB"):
        heads.check_memory(source(), 11_978, ["logreg", "knn"])


def test_an_interrupted_fit_starts_again_on_the_stored_features(tiny: Patch, capsys: Capture) -> None:
    with Patch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(heads, "choose", interrupt)
        command(heads, "--data", "tiny", "--features", "hog", "--head", "knn")
    assert not Path("report").exists()
    tiny.setattr(heads, "draw", lambda *_: None)
    tiny.setattr(heads, "write", lambda *_: None)
    capsys.readouterr()
    for interrupted in (True, False):
        command(heads, "--data", "tiny", "--features", "hog", "--head", "knn")
        out = capsys.readouterr().out
        assert ("hog_knn: its fit was interrupted; this step starts again" in out) == interrupted
        assert "HOG of train.csv" not in out


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
