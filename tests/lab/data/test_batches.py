"""lab.data.batches: the views do not depend on the batch size, the device or where an epoch is resumed."""

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
from lab.data.batches import Batch, Batches, prefetch, stored_batches
from lab.data.lists import read_data_set, read_list
from lab.data.mixup import draw_mix
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store

CPU = torch.device("cpu")
SMALL = Preprocessing(40, 24, 12, "cell", (0.1, 0.05, 0.15), (0.2, 0.1, 0.3))


def made_store(count: int) -> Store:
    """A store in memory whose rows are in another order than the list."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    return Store(images, rng.permutation(count), [str(row) for row in range(count)])


def batches(count: int, size: int, seed: int | None = None, preprocessing: Preprocessing = SMALL) -> Batches:
    return Batches(made_store(count), np.arange(count) * 10, preprocessing, size, CPU, seed)


def by_index(batches: Iterable[Batch]) -> dict[int, Tensor]:
    """Every view of an epoch by the index of its image; fails if an image occurs twice."""
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
def test_training_drops_an_incomplete_last_batch_and_evaluation_does_not(count: int, size: int) -> None:
    training, evaluation = batches(count, size, seed=0), batches(count, size)
    full = min(size, count)
    lengths = [len(indices) for _, _, indices in training]
    assert lengths == [full] * (count // full) and len(training) == len(lengths)
    assert len(by_index(training)) == count // full * full
    orders = [indices for _, _, indices in evaluation]
    assert np.concatenate(orders).tolist() == list(range(count)) and len(evaluation) == len(orders)
    assert all(len(order) == full for order in orders[:-1])


def test_evaluation_yields_the_list_in_order_without_augmentation() -> None:
    store = made_store(7)
    small = resample(torch.from_numpy(store.images[store.rows]), 12, padding="zeros").numpy()
    expected = (small - np.reshape(SMALL.mean, (3, 1, 1))) / np.reshape(SMALL.std, (3, 1, 1))
    for epoch in (0, 5):
        for index, view in by_index(batches(7, 3).epoch(epoch)).items():
            np.testing.assert_allclose(view.numpy(), expected[index], atol=1e-5)


@pytest.mark.parametrize("locate", ["cell", "centre"])
def test_training_views_depend_on_seed_epoch_and_index(locate: str) -> None:
    preprocessing = Preprocessing(40, 24, 12, locate, SMALL.mean, SMALL.std)  # type: ignore[arg-type]
    store = made_store(10)
    training = batches(10, 4, 3, preprocessing)
    for index, view in by_index(training.epoch(6)).items():
        image = torch.from_numpy(store.images[store.rows[index]][None])
        alone = augment(image, 12, 3, 6, np.array([index]), preprocessing.padding)
        torch.testing.assert_close(view, normalise(alone, SMALL.mean, SMALL.std)[0], atol=2e-4, rtol=0)


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_store_on_the_device_gives_the_same_views(
    monkeypatch: pytest.MonkeyPatch, device: str, seed: int | None
) -> None:
    epochs = []
    for resident in (True, False):
        monkeypatch.setattr("lab.data.batches.fits_on", lambda *_, answer=resident: answer)
        loader = Batches(made_store(40), np.arange(40), SMALL, 3, torch.device(device), seed)
        assert (loader.resident is not None) == resident
        epochs.append(list(loader))
    for (images, labels, order), (other_images, other_labels, other_order) in zip(*epochs, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
        assert np.array_equal(order, other_order)


@given(st.integers(0, 9), st.integers(1, 4))
def test_prefetch_keeps_the_order_and_its_distance(items: int, count: int) -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in range(items):
            taken.append(item)
            yield item

    results = []
    for number, result in enumerate(prefetch(lambda item: 2 * item, source(), count)):
        results.append(result)
        assert len(taken) == min(items, number + 1 + count)
    assert results == [2 * item for item in range(items)]


def test_prefetch_stops_when_it_is_closed() -> None:
    started: list[int] = []

    def function(item: int) -> int:
        started.append(item)
        return item

    results = prefetch(function, range(100), 2)
    assert next(results) == 0
    results.close()
    count = len(started)
    assert count <= 3 and list(results) == [] and len(started) == count


def test_prefetch_raises_the_error_of_its_function() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 // item, [1, 0, 1]))


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


def test_an_epoch_is_repeatable_and_differs_from_others() -> None:
    training = batches(16, 4, 0)
    first, again = by_index(training), by_index(training)
    assert list(first) == list(again) != list(range(16))
    assert all(torch.equal(first[index], again[index]) for index in first)
    other = by_index(training.epoch(1))
    assert list(other) != list(first) != list(by_index(batches(16, 4, 1)))
    assert not any(torch.equal(first[index], other[index]) for index in first)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_does_not_depend_on_the_batch_size_or_where_it_resumes(kind: str) -> None:
    labels = np.arange(12) % 3
    plain = Batches(made_store(12), labels, SMALL, 12, CPU, 5, augmentation="d4")
    views, _, order = next(iter(plain))
    epochs: list[tuple[Tensor, Tensor]] = []
    for size, begin in ((2, 2), (3, 0), (12, 0)):
        loader = Batches(made_store(12), labels, SMALL, size, CPU, 5, augmentation=f"d4,{kind}", classes=3)
        images, targets, indices = zip(*loader.epoch(begin=begin), strict=True)
        assert np.concatenate(indices).tolist() == order[begin * size :].tolist()
        epochs.append((torch.cat(images), torch.cat(targets)))
    for epoch in epochs[1:]:
        torch.testing.assert_close(epoch[0][-8:], epochs[0][0][-8:], atol=2e-4, rtol=0)
        torch.testing.assert_close(epoch[1][-8:], epochs[0][1][-8:])
    mixed, proportions = epochs[2]
    weight = draw_mix(kind, 5, 0, order)[:, 0]
    if kind == "mixup":  # the last is mixed with the first
        torch.testing.assert_close(mixed[-1], weight[-1] * views[-1] + (1 - weight[-1]) * views[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(proportions.sum(dim=1), torch.ones(12))
    own = proportions[torch.arange(12), torch.from_numpy(labels[order])]
    assert bool((own >= weight - 1e-5).all() if kind == "mixup" else (own > 0).any())


def test_batches_are_channels_last_and_of_the_given_size() -> None:
    training = batches(8, 4, 0)
    for size in (12, 8):  # training may start at a smaller size
        for images, _, _ in training.epoch(size=size):
            assert images.shape == (4, 3, size, size) and images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last) and not images.requires_grad


def test_stored_batches_equal_the_labs_loader(make_data: Callable[..., Path], working_folder: Path) -> None:
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
