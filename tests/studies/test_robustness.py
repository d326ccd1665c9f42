"""studies.robustness: what each change does to an image, and the whole way on trained networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evaluate
from lab.data.lists import read_data_set, read_list
from lab.errors import UserError
from studies import robustness
from studies.robustness import CHANGES, changed, some
from tests.made import DEPTHS, VALID, Capture, Patch, cell, command


def smear(side: int = 48) -> np.ndarray:
    """A smooth image with a dark disc beside the centre, on a bright background."""
    rows, columns = np.mgrid[:side, :side]
    disc = np.exp(-(((rows - side / 3) ** 2 + (columns - side / 2) ** 2) / (side / 5) ** 2))
    colours = np.array([230, 200, 220]) - disc[..., None] * np.array([120, 160, 60])
    return colours.round().astype(np.uint8)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_grows_with_its_strength_and_repeats(name: str) -> None:
    image = smear()
    results = [changed(image, name, strength, seed=3) for strength in CHANGES[name].strengths]
    assert all(result.dtype == np.uint8 and result.shape[2] == 3 for result in results)
    if name != "scale":  # its first strength reduces, the others enlarge
        distances = [float(np.abs(result.astype(float) - image).mean()) for result in results]
        assert 0 < distances[0] < distances[1] < distances[2]
    for strength, result in zip(CHANGES[name].strengths, results, strict=True):
        assert np.array_equal(changed(image, name, strength, seed=3), result)
    other = changed(image, name, CHANGES[name].strengths[0], seed=4)
    assert np.array_equal(other, results[0]) == (name != "noise")
    assert np.array_equal(image, smear())


def test_changes_by_hand() -> None:
    """A gain, an optical density, and the place of the disc after half a turn and at half the size."""
    image = smear()
    assert np.abs(robustness.brightness(image, 0.5, 0).astype(int) - image / 2).max() <= 0.5
    red, green, blue = np.moveaxis(robustness.stain(image, 1.0, 0) / 255, 2, 0)
    expected = np.moveaxis(image / 255, 2, 0)
    np.testing.assert_allclose(red, expected[0] ** 2, atol=0.003)
    np.testing.assert_allclose(green, expected[1], atol=0.003)
    np.testing.assert_allclose(blue, expected[2] ** 0.5, atol=0.003)
    turned = robustness.angle(image, 180, 0).astype(int)
    assert np.abs(turned - image[::-1, ::-1]).max() <= 3
    small = robustness.scale(image, 0.5, 0)
    assert small.shape == image.shape
    inner = small[12:36, 12:36, 1]  # around it is the reflection
    assert np.abs(np.array(np.unravel_index(inner.argmin(), inner.shape)) - (48 / 6, 12)).max() <= 1
    assert robustness.scale(image, 1.5, 0).shape == (72, 72, 3)


@pytest.mark.parametrize("name", CHANGES)
def test_the_background_of_a_segmented_cell_stays_black(name: str) -> None:
    """Otherwise the cell would no longer be found, and noise would be told from black by every network."""
    image = cell(np.random.default_rng(0), 1)
    result = changed(image, name, CHANGES[name].strengths[-1], seed=0)
    border = np.concatenate([result[0], result[-1], result[:, 0], result[:, -1]])
    assert border.max() < 8 and result.max() > 20


def test_a_tiny_image_is_changed_too() -> None:
    for name, change in CHANGES.items():
        for strength in change.strengths:
            assert min(changed(np.full((2, 3, 3), 90, np.uint8), name, strength, seed=0).shape) > 1


def test_some_images_are_evenly_spaced_and_keep_their_lines(trained: Path, work: Patch) -> None:
    valid = read_list(read_data_set(trained / "csv" / "tiny", None), "valid", labelled=True)
    few = some(valid, 5)
    chosen = [valid.ids.index(name) for name in few.ids]
    assert len(few) == 5 and chosen[0] == 0 and chosen[-1] == len(valid) - 1
    assert set(np.diff(chosen)) <= {2, 3}
    assert [few.row(index) for index in range(5)] == [valid.row(index) for index in chosen]
    assert np.array_equal(few.labels, valid.labels[chosen])
    assert len(some(valid, 99)) == len(valid)


def test_the_whole_way(trained: Path, work: Patch, capsys: Capture) -> None:
    """The unchanged images have evaluate.py's accuracy; every model has a row for each strength."""
    places: list[str | Path] = ["--data", trained / "csv" / "tiny", "--weights", trained / "weights", "--device", "cpu"]
    command(robustness, *places)
    command(evaluate, *places)
    table = pd.read_csv("report/tiny/robustness.csv")
    rows = [("none", 0.0), *((name, value) for name, change in CHANGES.items() for value in change.strengths)]
    for model in DEPTHS:
        of_model = table[table["model"] == model]
        assert [*zip(of_model["change"], of_model["strength"], strict=True)] == rows
        assert (of_model["images"] == VALID).all()
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    metrics = pd.read_csv("report/tiny/metrics.csv").query("metric == 'accuracy'").set_index("model")["value"]
    unchanged = table[table["change"] == "none"].set_index("model")["accuracy"]
    assert unchanged.to_dict() == pytest.approx(metrics[DEPTHS].to_dict())
    assert Path("report/tiny/robustness.png").stat().st_size > 10_000
    assert "written to report/tiny: robustness.csv, robustness.png" in capsys.readouterr().out
    command(robustness, *places, "--model", "resnet18", "--images", "4", "--d4", "off")
    alone = pd.read_csv("report/tiny/robustness_resnet18.csv")
    assert (alone["images"] == 4).all() and (alone["d4"] == "no").all() and set(alone["model"]) == {"resnet18"}


def test_a_broken_image_is_one_sentence(trained: Path, work: Patch) -> None:
    shutil.copytree(trained / "csv" / "tiny", "csv/tiny")
    valid = read_list(read_data_set("tiny", None), "valid", labelled=True)
    valid.paths[3].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 image cannot be used:\n  valid.csv line 5: "):
        command(robustness, "--data", "tiny", "--weights", trained / "weights", "--device", "cpu")
