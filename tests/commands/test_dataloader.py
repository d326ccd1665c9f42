"""dataloader.py: the lab's getData and LeukemiaLoader."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloader import LeukemiaLoader, getData, list_name
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError

SMALL = Preprocessing(40, 24, 12, "cell", (0.1, 0.05, 0.15), (0.2, 0.1, 0.3))


# ---- the lab's interface ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *(("train", "train"), ("valid", "valid"), ("resnet_18_test", "resnet_18_test")),
        *(("resnet50", "resnet_50_test"), ("resnet_152", "resnet_152_test"), ("test50", "resnet_50_test")),
        *(("test_152", "resnet_152_test"), ("resnet18_test", "resnet_18_test")),
    ],
)
def test_modes_and_their_lists(mode: str, name: str) -> None:
    assert list_name(mode) == name


@pytest.mark.parametrize(
    "mode", ["test", "Train", "", "resnet", "resnet_fifty_test", "train ", "resnet_50_valid", "50"]
)
def test_a_mode_that_names_no_list_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="use 'train', 'valid', or the test list of a depth"):
        list_name(mode)


def test_get_data_returns_the_lists_unchanged(make_data: Callable[..., Path], working_folder: Path) -> None:
    with pytest.raises(UserError, match="csv/lab3"):
        getData("train")
    folder = make_data().rename(working_folder / "csv")
    assert getData("train") == ([f"./train/{i}.bmp" for i in range(8)], [0, 1] * 4)
    assert getData("valid", folder) == ([f"./valid/{i}.bmp" for i in range(4)], [0, 1] * 2)
    for depth in (18, 50, 152):
        order = (folder / f"resnet_{depth}_test.csv").read_text().splitlines()[1:]
        assert getData(f"resnet_{depth}_test", folder) == order


def test_the_loader_prints_its_number_of_images_and_returns_them_one_by_one(
    make_data: Callable[..., Path], working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_data()
    loader = LeukemiaLoader(folder, "train", folder)
    assert capsys.readouterr().out == "> Found 8 images...\n"
    assert len(loader) == 8 and loader.img_name == getData("train", folder)[0]
    image, label = loader[5]
    assert isinstance(image, Tensor) and image.shape == (3, 64, 64) and image.dtype == torch.float32
    assert (label, type(label)) == (1, int)
    assert [loader[index][1] for index in range(8)] == [0, 1] * 4
    with pytest.raises(IndexError):
        loader[8]

    test = LeukemiaLoader(folder, "resnet_50_test", folder)
    assert capsys.readouterr().out == "> Found 3 images...\n"
    assert isinstance(test[0], Tensor)  # a test image has no label
    assert list(working_folder.iterdir()) == []  # nothing is written


def test_an_image_that_cannot_be_read_is_named_by_row(make_data: Callable[..., Path]) -> None:
    folder = make_data()
    loader = LeukemiaLoader(folder, "valid", folder, SMALL)
    (folder / "valid" / "2.bmp").write_bytes(b"")
    with pytest.raises(UserError, match=r"^valid.csv line 4: .*/valid/2.bmp: the file is empty; replace the file"):
        loader[2]


def test_the_loader_gives_the_same_images_with_any_number_of_workers(make_data: Callable[..., Path]) -> None:
    folder = make_data()
    loader = LeukemiaLoader(folder, "train", folder, SMALL)
    expected = torch.stack([loader[index][0] for index in range(8)])
    for workers in (2, 0):
        images, labels = zip(*DataLoader(loader, batch_size=3, num_workers=workers), strict=True)
        assert [*map(len, labels)] == [3, 3, 2] and torch.cat(labels).tolist() == [0, 1] * 4
        torch.testing.assert_close(torch.cat(images), expected)
    copy = pickle.loads(pickle.dumps(loader))  # as workers receive it on systems without fork
    assert torch.equal(copy[2][0], loader[2][0])


def test_the_loader_refuses_missing_folders_and_images(make_data: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_data()
    with pytest.raises(UserError, match=r"--root .*nowhere is not a folder"):
        LeukemiaLoader(tmp_path / "nowhere", "train", folder)
    with pytest.raises(UserError, match=r"8 problems; the images were searched in .*valid"):
        LeukemiaLoader(folder / "valid", "train", folder)
    (folder / "train" / "5.bmp").unlink()
    with pytest.raises(UserError, match=r"train\.csv line 7: \./train/5\.bmp does not exist"):
        LeukemiaLoader(folder, "train", folder)
