"""The sample generator: the same bytes for the same seed, the lab's format, two classes that differ and overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lab.sources import sample

Cells = list[tuple[NDArray[np.uint8], int]]


@pytest.fixture(scope="module")
def cells() -> Cells:
    return [sample.draw(0, "train", index) for index in range(120)]


def test_an_image_is_a_function_of_seed_split_and_index(cells: Cells) -> None:
    for index in (7, 3):  # in another order, so that no image influences the next
        again, label = sample.draw(0, "train", index)
        np.testing.assert_array_equal(again, cells[index][0])
        assert label == cells[index][1]
    for other in ((1, "train", 3), (0, "valid", 3), (0, "train", 4)):
        assert (sample.draw(*other)[0] != cells[3][0]).any()


def test_the_files_do_not_depend_on_their_number(tmp_path: Path) -> None:
    few = list(sample.write_images(tmp_path / "few", {"train": 2, "valid": 1, "test": 1}, seed=5))
    many = list(sample.write_images(tmp_path / "many", {"train": 4, "valid": 3, "test": 1}, seed=5))
    assert [split for split, _, _ in many] == ["train"] * 4 + ["valid"] * 3 + ["test"]
    assert set(few) <= set(many)
    for _, path, _ in few:
        assert (tmp_path / "few" / path).read_bytes() == (tmp_path / "many" / path).read_bytes()
    image = Image.open(tmp_path / "few" / "train" / "0.bmp")
    assert (image.format, image.mode, image.size) == ("BMP", "RGB", (450, 450))
    np.testing.assert_array_equal(np.asarray(image), sample.draw(5, "train", 0)[0])


def test_every_image_has_the_labs_format(cells: Cells) -> None:
    colours = []
    for image, label in cells:
        assert image.shape == (450, 450, 3) and image.dtype == np.uint8 and label in (0, 1)
        brightest = image.max(axis=2)
        cell = brightest > 8
        assert (brightest[~cell] == 0).all()  # the background is black, so the threshold finds the cell exactly
        assert ndimage.label(cell)[1] == 1
        assert ndimage.label(~cell)[1] == 1  # no holes
        rows, columns = np.nonzero(cell)
        assert 100 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 352
        assert np.hypot(rows.mean() - 224.5, columns.mean() - 224.5) < 15
        colours.append(image[cell].mean(axis=0))
    red, green, blue = np.transpose(colours)
    assert (green < np.minimum(red, blue)).all()  # purple
    assert np.median(red) < np.median(blue)  # not with red and blue swapped


def features(image: NDArray[np.uint8]) -> list[float]:
    """Area in px, mean brightness, and strength of the texture inside the rim."""
    grey, cell = image.mean(axis=2), image.max(axis=2) > 8
    inner = ndimage.binary_erosion(cell, iterations=15)
    fine = ndimage.gaussian_filter(grey, 2) - ndimage.gaussian_filter(grey, 8)
    return [float(cell.sum()), float(grey[cell].mean()), float(fine[inner].std())]


def test_classes_differ_as_real_ones_do_and_overlap(cells: Cells) -> None:
    labels = np.array([label for _, label in cells])
    assert 0.55 < labels.mean() < 0.8
    table = np.array([features(image) for image, _ in cells])
    blast, normal = table[labels == 1], table[labels == 0]
    assert np.median(blast[:, 0]) > 1.3 * np.median(normal[:, 0])  # larger
    assert np.median(blast[:, 1]) > np.median(normal[:, 1])  # paler
    assert np.median(blast[:, 2]) < 0.9 * np.median(normal[:, 2])  # finer chromatin
    for column in table.T:  # no single feature separates the classes
        low, high = sorted((column[labels == 1], column[labels == 0]), key=np.median)
        assert low.max() > high.min()
    model = make_pipeline(StandardScaler(), LogisticRegression())
    accuracy = cross_val_score(model, table, labels, cv=5).mean()
    assert 0.8 < accuracy < 0.98
