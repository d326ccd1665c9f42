"""Features are those of the library or of the network, are computed once, and are computed again if anything changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.feature import hog

from lab.checkpoints.ensembles import other
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.errors import UserError
from lab.hardware import Hardware
from models import catalog
from studies.features import HOG_SHAPE, Source, before_last, hog_features, last_linear, open_source, stored_features
from tests.made import Capture, Patch, make_data, thin

CPU = Hardware(torch.device("cpu"), "fp32")


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: Patch) -> tuple[DataSet, ImageList]:
    """A data set of six training images; the store is in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    data = read_data_set(make_data(tmp_path / "csv" / "tiny", counts=(6, 2, 2)))
    return data, read_list(data, "train", labelled=True)


def ones(count: int = 6, calls: list[int] | None = None, **values: Any) -> Source:
    """A source of three features; each call of its ``rows`` is noted in ``calls``."""

    def rows(_: str, images: ImageList) -> Iterator[np.ndarray]:
        for index in range(len(images)):
            if calls is not None:
                calls.append(index)
            if index == count:
                raise KeyboardInterrupt
            yield np.full(3, index, np.float32)

    return replace(Source("ones", "Ones", 1, 3, 0, None, {"a": 1}, "code", rows), **values)


def test_hog_is_that_of_the_specification(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    image.save(tmp_path / "0.png")
    grey = np.asarray(image.convert("L").resize((360, 360), Image.Resampling.BICUBIC))
    options = {"orientations": 9, "pixels_per_cell": (10, 10), "cells_per_block": (2, 2), "block_norm": "L2-Hys"}
    expected = hog(grey, feature_vector=False, **options)
    assert expected.shape == HOG_SHAPE and expected.size == 44_100
    np.testing.assert_array_equal(hog_features(tmp_path / "0.png", 0), expected.ravel().astype(np.float32))


@pytest.mark.parametrize("model", ["resnet18", "cnn6", "cnn2", "vit_tiny", "fc"])
def test_a_networks_features_are_the_input_of_its_last_layer(model: str) -> None:
    torch.manual_seed(0)
    network = catalog.build(model, 3, 64).eval()
    torch.nn.init.normal_(last_linear(network).weight)  # of a ViT it is zero
    images = torch.randn(2, 3, 64, 64)
    found = before_last(network, CPU, images)
    with torch.no_grad():
        torch.testing.assert_close(last_linear(network)(found), network(images), rtol=1e-4, atol=1e-4)
    assert last_linear(network).out_features == 3 and not last_linear(network)._forward_pre_hooks


def test_features_of_a_trained_network(trained: Path, work: Patch) -> None:
    """From the checkpoint, with the images of its preprocessing, in the order of the list."""
    data = read_data_set(trained / "csv" / "tiny")
    valid = read_list(data, "valid", labelled=True)
    source = open_source("resnet18", data, valid, trained / "weights", CPU)
    found = stored_features(source, data.name, "valid", valid).values
    parameters = sum(parameter.numel() for parameter in thin("resnet18").parameters())
    assert found.shape == (12, 8) and source.parameters == parameters - 9 * 2
    order = list(reversed(range(12)))
    flipped = replace(valid, ids=[valid.ids[i] for i in order], paths=[valid.paths[i] for i in order])
    again = stored_features(source, data.name, "valid", flipped).values
    np.testing.assert_allclose(again, found[::-1], atol=1e-6)


def test_features_are_computed_once(lists: tuple[DataSet, ImageList], capsys: Capture) -> None:
    data, train = lists
    calls: list[int] = []
    first = stored_features(ones(calls=calls), data.name, "train", train)
    np.testing.assert_array_equal(first.values, np.arange(6)[:, None] * np.ones(3))
    assert len(calls) == 6 and first.values.dtype == np.float32
    again = stored_features(ones(calls=calls), data.name, "train", train)
    assert len(calls) == 6 and again.seconds == first.seconds
    os.utime(train.paths[0], (0, 0))
    for changed in ({}, {"code": "other"}, {"settings": {"a": 2}}):
        before = len(calls)
        stored_features(ones(calls=calls, **changed), data.name, "train", train)
        assert len(calls) == before + 6
    assert len([*Path(".store/tiny/features").glob("*.npy")]) == 1  # older ones are deleted


def test_a_damaged_store_and_one_of_other_images_are_computed_again(
    lists: tuple[DataSet, ImageList], capsys: Capture
) -> None:
    data, train = lists
    valid = read_list(data, "valid", labelled=True)
    two = ImageList(train.csv, train.ids[:2], train.paths[:2], train.labels[:2])
    values = {name: stored_features(ones(), data.name, name, images) for name, images in (("a", two), ("b", valid))}
    one, other_one = (next(Path(".store/tiny/features").glob(f"{name}-*.npy")) for name in values)
    capsys.readouterr()
    for suffix in (".npy", ".json"):  # two other images, as many features, a valid checksum
        one.with_suffix(suffix).write_bytes(other_one.with_suffix(suffix).read_bytes())
    stored_features(ones(), data.name, "a", two)
    assert "of other images; computing these features again" in capsys.readouterr().out
    one.write_bytes(one.read_bytes()[:-1] + b"x")
    found = stored_features(ones(), data.name, "a", two)
    assert "damaged" in capsys.readouterr().out and found.values[1, 2] == 1
    assert json.loads(one.with_suffix(".json").read_text()).keys() == {"key", "crc32", "seconds"}


def test_an_interrupted_computation_leaves_nothing_and_starts_again(
    lists: tuple[DataSet, ImageList], capsys: Capture
) -> None:
    data, train = lists
    folder = Path(".store/tiny/features")
    with pytest.raises(KeyboardInterrupt):
        stored_features(ones(count=3), data.name, "train", train)
    assert not [*folder.glob("*.npy"), *folder.glob(".train*")]
    (folder / ".train-ones-0.npy.host-1.tmp").mkdir()  # as a killed process leaves it
    stored_features(ones(), data.name, "train", train)
    assert "interrupted; this step starts again" in capsys.readouterr().out and not [*folder.glob(".train*")]


def test_images_that_cannot_be_read_are_listed_by_row(lists: tuple[DataSet, ImageList]) -> None:
    data, train = lists
    train.paths[1].write_bytes(b"no image")
    train.paths[4].write_bytes(b"")
    with pytest.raises(UserError, match=r"2 images cannot be used:\n  train.csv line 3: .*\n  train.csv line 6: "):
        stored_features(open_source("hog", data, train, Path("weights"), CPU), data.name, "train", train)


def test_checkpoints_that_do_not_fit_are_refused(trained: Path, work: Patch, tmp_path: Path) -> None:
    data = read_data_set(trained / "csv" / "tiny")
    train = read_list(data, "train", labelled=True)

    def refused(pattern: str, weights: Path, data: DataSet = data) -> None:
        with pytest.raises(UserError, match=pattern) as error:
            open_source("resnet18", data, train, weights, CPU)
        assert len(str(error.value).splitlines()) == 1

    refused("there is no such checkpoint", tmp_path)
    three = replace(read_data_set(trained / "csv" / "other"), name="tiny")
    refused("trained on 2 classes", trained / "weights", three)
    lists = make_data(tmp_path / "csv" / "tiny", counts=(6, 4, 2))
    refused("trained on other lists", trained / "weights", read_data_set(lists))
    best = tmp_path / "weights" / "tiny" / "resnet18" / "best.safetensors"
    best.parent.mkdir(parents=True)
    best.write_bytes((trained / "weights" / "tiny" / "resnet18" / "best.safetensors").read_bytes())
    other(best.parent, 2).write_bytes(best.read_bytes())
    refused("contains an average", tmp_path / "weights")
    other(best.parent, 2).unlink()
    best.write_bytes(best.read_bytes()[:-100])
    refused("safetensors", tmp_path / "weights")
