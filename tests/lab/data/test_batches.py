"""lab.data.batches: the same views for any batch size, device and place to resume from; in order for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dataloader import LeukemiaLoader
from lab.data.augmentation import augment, normalise, resample
from lab.data.batches import Batch, Batches, ahead, stored_batches
from lab.data.lists import read_data_set, read_list
from lab.data.mixup import draw_mix
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store

CPU = torch.device("cpu")
SMALL = Preprocessing(40, 24, 12, "cell", (0.1, 0.05, 0.15), (0.2, 0.1, 0.3))


def made_store(count: int) -> Store:
    """A store in memory whose rows stand in another order than the list."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    return Store(images, rng.permutation(count), [str(row) for row in range(count)])


def batches(count: int, size: int, seed: int | None = None, preprocessing: Preprocessing = SMALL) -> Batches:
    return Batches(made_store(count), np.arange(count) * 10, preprocessing, size, CPU, seed)


def by_index(batches: Iterable[Batch]) -> dict[int, Tensor]:
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
    again = by_index(batches(7, 3).epoch(5))
    assert all(torch.equal(view, views[index]) for index, view in again.items())


@pytest.mark.parametrize("locate", ["cell", "centre"])
def test_training_views_are_those_of_seed_epoch_and_index(locate: str) -> None:
    preprocessing = Preprocessing(40, 24, 12, locate, SMALL.mean, SMALL.std)  # type: ignore[arg-type]
    store = made_store(10)
    training = batches(10, 4, 3, preprocessing)
    for index, view in by_index(training.epoch(6)).items():
        image = torch.from_numpy(store.images[store.rows[index]][None])
        alone = augment(image, 12, 3, 6, np.array([index]), preprocessing.padding)
        torch.testing.assert_close(view, normalise(alone, SMALL.mean, SMALL.std)[0], atol=2e-4, rtol=0)


@pytest.mark.parametrize("seed", [None, 4])
def test_a_store_kept_on_the_device_gives_the_same_views(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    streamed = batches(10, 4, seed)
    monkeypatch.setattr("lab.data.batches.fits_on", lambda *_: True)
    resident = batches(10, 4, seed)
    assert resident.resident is not None and streamed.resident is None
    for (one, labels, order), (other, other_labels, other_order) in zip(streamed, resident, strict=True):
        assert torch.equal(one, other) and torch.equal(labels, other_labels) and np.array_equal(order, other_order)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: copies to one beside its work")
@pytest.mark.parametrize("seed", [None, 4])
def test_a_store_streamed_to_a_gpu_gives_the_same_views(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    store, gpu = made_store(40), torch.device("cuda")
    resident = Batches(store, np.zeros(40, np.int64), SMALL, 3, gpu, seed)
    monkeypatch.setattr("lab.data.batches.fits_on", lambda *_: False)
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
    loaders = batches(12, one, 0), batches(12, one, 0).with_batch_size(other)
    first, second = (by_index(loader.epoch(epoch)) for loader in loaders)
    for index in first.keys() & second.keys():
        torch.testing.assert_close(first[index], second[index], atol=2e-4, rtol=0)
    orders = [np.concatenate([indices for _, _, indices in loader.epoch(epoch)]) for loader in loaders]
    shorter = min(map(len, orders))
    np.testing.assert_array_equal(orders[0][:shorter], orders[1][:shorter])  # nor the order


def test_an_epoch_can_be_repeated_and_is_like_no_other() -> None:
    training = batches(16, 4, 0)
    first, again = by_index(training), by_index(training)
    assert list(first) == list(again) != list(range(16))
    assert all(torch.equal(first[index], again[index]) for index in first)
    other = by_index(training.epoch(1))
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
    plain = Batches(made_store(12), labels, SMALL, 12, CPU, 5, augmentation="d4")
    (views, _, order) = next(iter(plain))
    found: list[tuple[Tensor, Tensor]] = []
    for loader, begin in zip(made, (2, 0, 0), strict=True):
        parts = list(loader.epoch(begin=begin))
        assert [i for _, _, part in parts for i in part] == order[begin * loader.batch_size :].tolist()
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
        for images, _, _ in training.epoch(size=size):
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
