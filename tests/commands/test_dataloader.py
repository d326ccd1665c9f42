"""dataloader.py: the lab's getData and LeukemiaLoader, and the batches that training and prediction run on."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

import dataloader
from dataloader import (
    Batches,
    LeukemiaLoader,
    ahead,
    getData,
    list_name,
    measured_preprocessing,
    sample_images,
    stored_batches,
)
from lab.data.augmentation import augment, normalise, resample
from lab.data.images import read_image
from lab.data.lists import read_data_set, read_list
from lab.data.mixup import draw_mix
from lab.data.preprocessing import Preprocessing, channel_statistics
from lab.data.store import Store
from lab.errors import UserError

CPU = torch.device("cpu")
SMALL = Preprocessing(40, 24, 12, "cell", (0.1, 0.05, 0.15), (0.2, 0.1, 0.3))


# ---- the lab's interface ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("train", "train"),
        ("valid", "valid"),
        ("resnet_18_test", "resnet_18_test"),
        ("resnet50", "resnet_50_test"),
        ("resnet_152", "resnet_152_test"),
        ("test50", "resnet_50_test"),
        ("test_152", "resnet_152_test"),
        ("resnet18_test", "resnet_18_test"),
    ],
)
def test_modes_and_their_lists(mode: str, name: str) -> None:
    assert list_name(mode) == name


@pytest.mark.parametrize(
    "mode", ["test", "Train", "", "resnet", "resnet_fifty_test", "train ", "resnet_50_valid", "50"]
)
def test_a_mode_that_does_not_say_which_list_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="use 'train', 'valid', or the test list of a depth"):
        list_name(mode)


def test_get_data_gives_the_lists_as_they_are(make_data: Callable[..., Path]) -> None:
    folder = make_data()
    paths, labels = getData("train", folder)
    assert paths == [f"./train/{i}.bmp" for i in range(8)] and labels == [0, 1] * 4
    assert getData("valid", folder) == ([f"./valid/{i}.bmp" for i in range(4)], [0, 1] * 2)
    tests = {depth: getData(f"resnet_{depth}_test", folder) for depth in (18, 50, 152)}
    for depth, order in tests.items():
        assert order == (folder / f"resnet_{depth}_test.csv").read_text().splitlines()[1:]
        assert sorted(order) == sorted(tests[18])


def test_get_data_reads_the_lists_dropped_into_csv(make_data: Callable[..., Path], working_folder: Path) -> None:
    with pytest.raises(UserError, match="csv/lab3"):
        getData("train")
    make_data().rename(working_folder / "csv")
    assert len(getData("train")[0]) == 8


def test_the_loader_announces_its_images_and_gives_them_one_by_one(
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
    assert isinstance(test[0], Tensor)  # without a label there is the image alone
    assert list(working_folder.iterdir()) == []  # nothing is written


def test_the_loader_reads_preprocesses_and_normalises(make_data: Callable[..., Path]) -> None:
    folder = make_data()
    loader = LeukemiaLoader(folder, "valid", folder, SMALL)
    source = SMALL.crop(read_image(folder / "valid" / "3.bmp"))
    small = resample(torch.from_numpy(source[None]), 12, padding="zeros")[0].numpy()
    expected = (small - np.reshape(SMALL.mean, (3, 1, 1))) / np.reshape(SMALL.std, (3, 1, 1))
    np.testing.assert_allclose(loader[3][0].numpy(), expected, atol=1e-5)


def test_an_image_that_cannot_be_read_is_named_by_row(make_data: Callable[..., Path]) -> None:
    folder = make_data()
    loader = LeukemiaLoader(folder, "valid", folder, SMALL)
    (folder / "valid" / "2.bmp").write_bytes(b"")
    with pytest.raises(UserError, match=r"^valid.csv line 4: .*/valid/2.bmp: the file is empty; replace the file"):
        loader[2]
    for index in range(4):
        (folder / "valid" / f"{index}.bmp").write_text("no image")
    with pytest.raises(
        UserError, match=r"none of the images tried can be used:\n  valid.csv line 2: ./valid/0.bmp: not an"
    ):
        dataloader.choose_preprocessing(loader.list, 12)


def test_the_loader_works_with_workers_and_is_the_same_every_time(make_data: Callable[..., Path]) -> None:
    folder = make_data()
    loader = LeukemiaLoader(folder, "train", folder, SMALL)
    rounds = [list(DataLoader(loader, batch_size=3, num_workers=workers)) for workers in (2, 2, 0)]
    for batches in rounds:
        assert [len(labels) for _, labels in batches] == [3, 3, 2]
        torch.testing.assert_close(
            torch.cat([images for images, _ in batches]), torch.stack([loader[i][0] for i in range(8)])
        )
        assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1] * 4
    copy = pickle.loads(pickle.dumps(loader))  # as workers receive it where processes are not forked
    assert torch.equal(copy[2][0], loader[2][0])


def test_the_loader_refuses_what_is_not_there(make_data: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_data()
    with pytest.raises(UserError, match=r"--root .*nowhere is not a folder"):
        LeukemiaLoader(tmp_path / "nowhere", "train", folder)
    with pytest.raises(UserError, match=r"8 problems; paths were tried against .*valid"):
        LeukemiaLoader(folder / "valid", "train", folder)
    (folder / "train" / "5.bmp").unlink()
    with pytest.raises(UserError, match=r"train\.csv line 7: \./train/5\.bmp does not exist"):
        LeukemiaLoader(folder, "train", folder)


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_window_and_statistics_are_measured_on_the_training_images(make_data: Callable[..., Path]) -> None:
    train = read_list(read_data_set(make_data(train=12)), "train", labelled=True)
    measured = measured_preprocessing(train, 16)
    assert (measured.source, measured.size, measured.locate) == (32, 16, "cell")
    widest = max(np.ptp(np.flatnonzero(read_image(path).any((0, 2)))) + 1 for path in train.paths)
    assert widest < measured.window <= widest * 1.05 + 16
    crops = np.stack([measured.crop(read_image(path)) for path in train.paths])
    assert (measured.mean, measured.std) == channel_statistics(crops)


def test_a_sample_is_spread_evenly_and_leaves_out_what_cannot_be_read(make_data: Callable[..., Path]) -> None:
    train = read_list(read_data_set(make_data(train=9)), "train", labelled=True)
    everything = [read_image(path) for path in train.paths]
    for count, places in ((200, range(9)), (3, (0, 4, 8)), (1, (0,))):
        sample = sample_images(train, count)
        assert len(sample) == len(places)
        assert all(np.array_equal(image, everything[i]) for image, i in zip(sample, places, strict=True))
    # The check of the whole list reports the damaged one together with all others; measuring must not stop before.
    train.paths[4].write_bytes(b"")
    assert len(sample_images(train, 200)) == 8
    for path in train.paths:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.bmp: the file is empty"):
        sample_images(train)


# ---- batches ---------------------------------------------------------------------------------------------------------


def made_store(count: int) -> Store:
    """A store in memory whose rows stand in another order than the list."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    return Store(images, rng.permutation(count), [str(row) for row in range(count)])


def batches(count: int, size: int, seed: int | None = None, preprocessing: Preprocessing = SMALL) -> Batches:
    return Batches(made_store(count), np.arange(count) * 10, preprocessing, size, CPU, seed)


def by_index(batches: Batches) -> dict[int, Tensor]:
    """Every view of an epoch under the index of its image; fails if an image comes twice."""
    views: dict[int, Tensor] = {}
    for images, labels, indices in batches:
        assert len(images) == len(labels) == len(indices)
        assert labels.dtype == torch.int64 and labels.tolist() == (np.asarray(indices) * 10).tolist()
        for image, index in zip(images, indices.tolist(), strict=True):
            assert index not in views
            views[index] = image
    return views


@settings(max_examples=25)
@given(st.integers(1, 23), st.integers(1, 30))
def test_training_drops_the_last_batch_that_is_not_full_and_evaluation_nothing(count: int, size: int) -> None:
    training, evaluation = batches(count, size, seed=0), batches(count, size)
    full = min(size, count)  # a list smaller than a batch is one batch
    lengths = [len(indices) for _, _, indices in training]
    assert lengths == [full] * (count // full) and len(training) == len(lengths)
    assert len(by_index(training)) == count // full * full
    orders = [indices for _, _, indices in evaluation]
    assert np.concatenate(orders).tolist() == list(range(count)) and len(evaluation) == len(orders)
    assert all(len(order) == full for order in orders[:-1])


def test_evaluation_is_the_list_in_order_unchanged() -> None:
    store = made_store(7)
    views = by_index(batches(7, 3))
    small = resample(torch.from_numpy(store.images[store.rows]), 12, padding="zeros").numpy()
    expected = (small - np.reshape(SMALL.mean, (3, 1, 1))) / np.reshape(SMALL.std, (3, 1, 1))
    for index, view in views.items():
        np.testing.assert_allclose(view.numpy(), expected[index], atol=1e-5)
    again = batches(7, 3)
    again.epoch = 5
    assert all(torch.equal(view, views[index]) for index, view in by_index(again).items())


@pytest.mark.parametrize("locate", ["cell", "centre"])
def test_training_views_are_those_of_seed_epoch_and_index(locate: str) -> None:
    preprocessing = Preprocessing(40, 24, 12, locate, SMALL.mean, SMALL.std)  # type: ignore[arg-type]
    store = made_store(10)
    training = batches(10, 4, 3, preprocessing)
    training.epoch = 6
    for index, view in by_index(training).items():
        image = torch.from_numpy(store.images[store.rows[index]][None])
        alone = augment(image, 12, 3, 6, np.array([index]), preprocessing.padding)
        torch.testing.assert_close(view, normalise(alone, SMALL.mean, SMALL.std)[0], atol=2e-4, rtol=0)


@pytest.mark.parametrize("seed", [None, 4])
def test_a_store_kept_on_the_device_gives_the_same_views(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    streamed = batches(10, 4, seed)
    monkeypatch.setattr(dataloader, "fits_on", lambda *_: True)
    resident = batches(10, 4, seed)
    assert resident.resident is not None and streamed.resident is None
    for (one, labels, order), (other, other_labels, other_order) in zip(streamed, resident, strict=True):
        assert torch.equal(one, other) and torch.equal(labels, other_labels) and np.array_equal(order, other_order)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: copies to one beside its work")
@pytest.mark.parametrize("seed", [None, 4])
def test_a_store_streamed_to_a_gpu_gives_the_same_views(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    store, gpu = made_store(40), torch.device("cuda")
    resident = Batches(store, np.zeros(40, np.int64), SMALL, 3, gpu, seed)
    monkeypatch.setattr(dataloader, "fits_on", lambda *_: False)
    streamed = Batches(store, np.zeros(40, np.int64), SMALL, 3, gpu, seed)
    assert resident.resident is not None and streamed.resident is None
    for (one, _, order), (other, _, other_order) in zip(streamed, resident, strict=True):
        assert torch.equal(one, other) and np.array_equal(order, other_order)


@given(st.integers(0, 9), st.integers(1, 4))
def test_work_ahead_comes_out_in_order(items: int, count: int) -> None:
    handed_out: list[int] = []

    def handing() -> Iterator[int]:
        for item in range(items):
            handed_out.append(item)
            yield item

    found = []
    for number, result in enumerate(ahead(lambda item: 2 * item, handing(), count)):
        found.append(result)
        assert len(handed_out) == min(items, number + 1 + count)
    assert found == [2 * item for item in range(items)]


def test_work_ahead_that_nobody_waits_for_ends() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    results = ahead(work, range(100), 2)
    assert next(results) == 0
    results.close()
    count = len(begun)  # of those handed out the rest is not begun any more
    assert count <= 3 and list(results) == [] and len(begun) == count


def test_work_ahead_that_fails_fails_where_it_is_due() -> None:
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 1]))


@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 50))
def test_the_batch_size_changes_no_view(one: int, other: int, epoch: int) -> None:
    loaders = batches(12, one, 0), batches(12, other, 0)
    for loader in loaders:
        loader.epoch = epoch
    first, second = map(by_index, loaders)
    for index in first.keys() & second.keys():
        torch.testing.assert_close(first[index], second[index], atol=2e-4, rtol=0)
    orders = [np.concatenate([indices for _, _, indices in loader]) for loader in loaders]
    shorter = min(map(len, orders))
    np.testing.assert_array_equal(orders[0][:shorter], orders[1][:shorter])  # nor the order


def test_an_epoch_can_be_repeated_and_is_like_no_other() -> None:
    training = batches(16, 4, 0)
    first, again = by_index(training), by_index(training)
    assert list(first) == list(again) != list(range(16))
    assert all(torch.equal(first[index], again[index]) for index in first)
    training.epoch = 1
    other = by_index(training)
    assert list(other) != list(first)
    assert not any(torch.equal(first[index], other[index]) for index in first)
    fresh = batches(16, 4, 1)
    assert list(by_index(fresh)) != list(first)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_hangs_on_neither_the_batch_size_nor_the_place_to_go_on_from(kind: str) -> None:
    labels = np.arange(12) % 3
    made = [
        Batches(made_store(12), labels, SMALL, size, CPU, 5, augmentation=f"d4,{kind}", classes=3)
        for size in (2, 3, 12)
    ]
    made[0].begin = 2
    plain = Batches(made_store(12), labels, SMALL, 12, CPU, 5, augmentation="d4")
    (views, _, order) = next(iter(plain))
    found: list[tuple[Tensor, Tensor]] = []
    for loader in made:
        parts = list(loader)
        assert [i for _, _, part in parts for i in part] == order[loader.begin * loader.batch_size :].tolist()
        found.append((torch.cat([images for images, _, _ in parts]), torch.cat([targets for _, targets, _ in parts])))
    for images, targets in found[1:]:
        torch.testing.assert_close(images[-8:], found[0][0][-8:], atol=2e-4, rtol=0)
        torch.testing.assert_close(targets[-8:], found[0][1][-8:])
    images, targets = found[2]
    share = draw_mix(kind, 5, 0, order)[:, 0]
    if kind == "mixup":  # the last is mixed with the first
        torch.testing.assert_close(images[-1], share[-1] * views[-1] + (1 - share[-1]) * views[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(12))
    given_to_own = targets[torch.arange(12), torch.from_numpy(labels[order])]
    assert bool((given_to_own >= share - 1e-5).all() if kind == "mixup" else (given_to_own > 0).any())


def test_batches_lie_channels_last_and_follow_the_size(make_data: Callable[..., Path]) -> None:
    training = batches(8, 4, 0)
    for size in (12, 8):  # training may start smaller than it ends
        training.size = size
        for images, _, _ in training:
            assert images.shape == (4, 3, size, size) and images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last) and not images.requires_grad


def test_stored_batches_are_what_the_lab_loader_gives(make_data: Callable[..., Path], working_folder: Path) -> None:
    folder = make_data()
    data = read_data_set(folder)
    for mode in ("valid", "resnet_18_test", "resnet_152_test"):
        images = read_list(data, mode, labelled=mode == "valid")
        views = torch.cat([batch for batch, _, _ in stored_batches(data.name, mode, images, SMALL, CPU)])
        slow = LeukemiaLoader(folder, mode, folder, SMALL)
        for view, item in zip(views, (slow[i] for i in range(len(slow))), strict=True):
            torch.testing.assert_close(view, item if isinstance(item, Tensor) else item[0], atol=1e-5, rtol=0)
    assert (working_folder / ".store" / "tiny").is_dir()
    assert sorted(path.name for path in working_folder.iterdir()) == [".store"]
