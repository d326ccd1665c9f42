"""lab.data.store: it contains exactly what decoding gives, is built once, and is built again after any change."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import lab.data.store
from lab.data.images import read_image
from lab.data.lists import ImageList, read_data_set, read_list
from lab.data.preprocessing import Preprocessing, choose_preprocessing
from lab.data.store import Store, open_stores
from lab.errors import UserError

SMALL = Preprocessing(40, 24, 12, "cell")


@pytest.fixture
def train(make_data: Callable[..., Path]) -> ImageList:
    return read_list(read_data_set(make_data()), "train", labelled=True)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the lists that were decoded, once per build."""
    names: list[str] = []
    build = lab.data.store.build

    def counted(stem: Path, name: str, paths: list[Path], preprocessing: Preprocessing) -> dict[Path, Exception]:
        names.append(name)
        return build(stem, name, paths, preprocessing)

    monkeypatch.setattr(lab.data.store, "build", counted)
    return names


def check(images: ImageList, folder: Path, preprocessing: Preprocessing = SMALL) -> Store:
    """Open the store and compare it with the oracle: every image of the list read and cropped, one after another."""
    store = open_stores({"train": images}, preprocessing, folder)["train"]
    expected = np.stack([preprocessing.crop(read_image(path)) for path in images.paths])
    np.testing.assert_array_equal(store.images[store.rows], expected)
    assert store.list_digests() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in images.paths]
    return store


def reordered(images: ImageList, order: list[int]) -> ImageList:
    ids, paths = [images.ids[i] for i in order], [images.paths[i] for i in order]
    return ImageList(images.csv, ids, paths, images.labels[order])


def overwrite(path: Path, content: bytes) -> None:
    """Write a file and set a later modification time, whatever the resolution of the clock."""
    time = path.stat().st_mtime_ns + 1_000_000_000
    path.write_bytes(content)
    os.utime(path, ns=(time, time))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.is_dir() else []


def test_it_is_built_once_as_two_files_that_are_mapped_read_only(
    train: ImageList, tmp_path: Path, built: list[str]
) -> None:
    folder = tmp_path / "store"
    store = check(train, folder)
    assert isinstance(store.images, np.memmap) and not store.images.flags.writeable
    files = {name: (folder / name).read_bytes() for name in names(folder)}
    assert sorted(Path(name).suffix for name in files) == [".json", ".npy"]
    check(train, folder)
    assert built == ["train"] and {name: (folder / name).read_bytes() for name in names(folder)} == files
    check(train, tmp_path / "elsewhere")
    assert {name: (tmp_path / "elsewhere" / name).read_bytes() for name in files} == files


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(8)), count=st.integers(1, 8))
def test_another_order_shares_the_store(train: ImageList, tmp_path: Path, order: list[int], count: int) -> None:
    folder = tmp_path / "store"
    check(train, folder)
    before = names(folder)
    check(reordered(train, order), folder)
    assert names(folder) == before
    check(reordered(train, order[:count]), tmp_path / "fewer")


@pytest.mark.parametrize("change", ["file", "code"])
def test_a_changed_file_or_code_replaces_the_store(
    train: ImageList, tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = tmp_path / "store"
    check(train, folder)
    before = names(folder)
    if change == "file":
        overwrite(train.paths[3], train.paths[4].read_bytes())  # the same size, other pixels
    else:
        monkeypatch.setattr(lab.data.store, "code_version", lambda: "another")
    check(train, folder)
    check(train, folder)
    assert built == ["train", "train"] and names(folder) != before and len(names(folder)) == 2


def test_each_crop_has_its_own_store(train: ImageList, tmp_path: Path, built: list[str]) -> None:
    folder = tmp_path / "store"
    crops = [SMALL, replace(SMALL, window=32), replace(SMALL, locate="centre"), replace(SMALL, source=16)]
    for preprocessing in crops * 2:  # the second time, all of them exist
        check(train, folder, preprocessing)
    assert built == ["train"] * 4 and len(names(folder)) == 8
    check(train, folder, replace(SMALL, size=6, mean=(0.1, 0.1, 0.1), std=(0.9, 0.9, 0.9)))
    assert len(built) == 4  # parameters after the crop have no influence


def test_damaged_images_of_all_lists_are_reported_together_and_nothing_is_kept(
    make_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = read_data_set(make_data())
    lists = {name: read_list(data, name, labelled=True) for name in ("train", "valid")}
    train, valid = lists["train"].paths, lists["valid"].paths
    train[1].write_bytes(train[1].read_bytes()[:2000])
    train[6].write_bytes(b"")
    valid[2].write_text("not an image")
    folder = tmp_path / "store"
    with pytest.raises(UserError) as caught:
        open_stores(lists, SMALL, folder)
    text = str(caught.value)
    assert "3 images cannot be used" in text
    assert "train.csv line 3: ./train/1.bmp: damaged or truncated" in text
    assert "train.csv line 8: ./train/6.bmp: the file is empty" in text
    assert "valid.csv line 4: ./valid/2.bmp: not an image" in text
    assert names(folder) == []

    for path in (train[1], train[6], valid[2]):
        overwrite(path, train[0].read_bytes())
    for images in lists.values():
        check(images, folder)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("kind", ["missing", "empty", "half", "zeros", "header", "other", "pixel"])
def test_a_damaged_store_is_built_again(
    suffix: str, kind: str, train: ImageList, tmp_path: Path, built: list[str]
) -> None:
    folder = tmp_path / "store"
    check(train, folder)
    (path,) = (path for path in folder.iterdir() if path.suffix == suffix)
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "other" and suffix == ".npy":
        np.save(path, np.zeros((3, 24, 24, 3), np.uint8))  # an intact file of other images
    else:
        contents = {
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "zeros": b"\0" * len(whole),
            "header": whole.replace(b"{" if suffix == ".npy" else b"[", b"(", 1),
            "other": b"7",
            "pixel": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],  # one bit of an image, or of a digest
        }
        path.write_bytes(contents[kind])
    check(train, folder)
    assert built == ["train", "train"] and len(names(folder)) == 2


def test_an_interrupted_build_leaves_no_store(
    train: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    with monkeypatch.context() as patch:

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(lab.data.store, "decode", stop)
        with pytest.raises(KeyboardInterrupt):
            check(train, folder)
    assert names(folder) == []
    check(train, folder)


def test_two_that_need_the_same_store_build_it_once(
    train: ImageList,
    tmp_path: Path,
    built: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As when two depths are trained at once: the second opens the store between the first one's two files, and waits."""
    folder, second, write = tmp_path / "store", ThreadPoolExecutor(1), lab.data.store.write_whole
    futures: list[Future[Store]] = []

    def write_late(path: Path, data: str) -> None:
        futures.append(second.submit(check, train, folder))
        while "waiting for it" not in capsys.readouterr().out and not futures[0].done():
            time.sleep(0.005)
        write(path, data)

    monkeypatch.setattr(lab.data.store, "write_whole", write_late)
    check(train, folder)
    futures[0].result(60)
    assert built == ["train"]


def test_the_rest_of_a_killed_build_is_removed_with_the_older_store(train: ImageList, tmp_path: Path) -> None:
    check(train, tmp_path / "store")
    rest = tmp_path / "store" / ".train-cell40-24px-0123456789.npy.elsewhere-1.tmp"
    rest.mkdir()
    (rest / "x.npy").write_text("half")
    overwrite(train.paths[0], train.paths[1].read_bytes())
    check(train, tmp_path / "store")
    assert not rest.exists() and len(names(tmp_path / "store")) == 2


def test_images_that_show_nothing_are_warned_of_by_row(
    train: ImageList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    for index, image in ((0, np.zeros_like(noise)), (2, np.full_like(noise, 255)), (5, noise)):
        Image.fromarray(image).save(train.paths[index])
    for preprocessing, rows in ((SMALL, (0, 2, 5)), (replace(SMALL, locate="centre"), (0, 2))):
        for _ in range(2):  # built, and opened again
            store = open_stores({"train": train}, preprocessing, tmp_path)["train"]
            assert {index for index in range(len(train)) if store.rows[index] in store.blank} == set(rows)
        message = capsys.readouterr().err
        assert message.count("warning") == 1  # once in a process
        assert all(f"line {index + 2} (./train/{index}.bmp)" in message for index in rows) and "line 3" not in message


def test_greys_of_twelve_bits_are_scaled_alike_in_all_lists(make_data: Callable[..., Path], tmp_path: Path) -> None:
    """A camera's 12 bits in files of 16: one white for dark and bright images, of both lists."""
    data = read_data_set(make_data())
    lists = {name: read_list(data, name, labelled=True) for name in ("train", "valid")}
    expected = {}
    for name, images in lists.items():
        for index, path in enumerate(images.paths):
            grey = read_image(path)[..., 0].astype(np.uint16) * (16 if index else 2)  # the first of each is dark
            Image.fromarray(grey).save(path, "PNG")
            expected[name, index] = (grey / 4095 * 255 + 0.5).astype(np.uint8)
    preprocessing = choose_preprocessing(lists["train"], 12)
    assert preprocessing.white == 4095
    stores = open_stores(lists, preprocessing, tmp_path)
    for (name, index), eight_bits in expected.items():
        crop = preprocessing.crop(np.repeat(eight_bits[..., None], 3, axis=2))
        np.testing.assert_array_equal(stores[name].images[stores[name].rows[index]], crop)
    Image.fromarray(np.full((48, 48), 5000, np.uint16)).save(lists["valid"].paths[1], "PNG")
    with pytest.raises(UserError, match=r"valid.csv line 3: .* up to 5000, but white is 4095 in this data set"):
        open_stores(lists, preprocessing, tmp_path)
