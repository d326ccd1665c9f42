"""lab.data.store: the bytes of decoding each image anew, kept while nothing changed and built again when anything did."""

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

import lab.data.store
from lab.data.images import read_image
from lab.data.lists import ImageList, read_data_set, read_list
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store, open_stores
from lab.errors import UserError

SMALL = Preprocessing(40, 24, 12, "cell")


@pytest.fixture
def train(make_data: Callable[..., Path]) -> ImageList:
    return read_list(read_data_set(make_data()), "train", labelled=True)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the lists that were decoded, one for each time it was done."""
    names: list[str] = []
    build = lab.data.store.build

    def counted(stem: Path, name: str, paths: list[Path], preprocessing: Preprocessing) -> dict[Path, Exception]:
        names.append(name)
        return build(stem, name, paths, preprocessing)

    monkeypatch.setattr(lab.data.store, "build", counted)
    return names


def opened(images: ImageList, folder: Path, preprocessing: Preprocessing = SMALL) -> Store:
    return open_stores({"train": images}, preprocessing, folder)["train"]


def directly(images: ImageList, preprocessing: Preprocessing = SMALL) -> np.ndarray:
    """The slow way: every image of the list read and cropped, one after another."""
    return np.stack([preprocessing.crop(read_image(path)) for path in images.paths])


def reordered(images: ImageList, order: list[int]) -> ImageList:
    ids, paths = [images.ids[i] for i in order], [images.paths[i] for i in order]
    return ImageList(images.csv, ids, paths, images.labels[order])


def touch_later(path: Path, content: bytes) -> None:
    """Write a file and make sure that its time differs from before, whatever the clock's grain."""
    time = path.stat().st_mtime_ns + 1_000_000_000 if path.exists() else 0
    path.write_bytes(content)
    if time:
        os.utime(path, ns=(time, time))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.is_dir() else []


def test_other_code_builds_another_store(
    train: ImageList, tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(train, tmp_path / "store")
    monkeypatch.setattr(lab.data.store, "code_version", lambda: "another")
    opened(train, tmp_path / "store")
    opened(train, tmp_path / "store")
    assert built == ["train", "train"] and len(names(tmp_path / "store")) == 2  # the first one is gone


def test_it_holds_what_decoding_gives_byte_for_byte(train: ImageList, tmp_path: Path) -> None:
    for locate in ("cell", "centre"):
        preprocessing = replace(SMALL, locate=locate)
        store = opened(train, tmp_path / "store", preprocessing)
        assert isinstance(store.images, np.memmap) and not store.images.flags.writeable
        np.testing.assert_array_equal(store.images[store.rows], directly(train, preprocessing))
    assert store.list_digests() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in train.paths]


def test_it_is_built_once_and_leaves_two_files(train: ImageList, tmp_path: Path, built: list[str]) -> None:
    folder = tmp_path / "store"
    first = opened(train, folder)
    files = {name: (folder / name).read_bytes() for name in names(folder)}
    assert sorted(Path(name).suffix for name in files) == [".json", ".npy"]
    second = opened(train, folder)
    assert built == ["train"]
    np.testing.assert_array_equal(first.images[first.rows], second.images[second.rows])
    assert {name: (folder / name).read_bytes() for name in names(folder)} == files
    opened(train, tmp_path / "elsewhere")
    assert {
        name: (tmp_path / "elsewhere" / name).read_bytes() for name in files
    } == files  # the same wherever, whenever


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(8)), count=st.integers(1, 8))
def test_another_order_shares_the_store(train: ImageList, tmp_path: Path, order: list[int], count: int) -> None:
    folder = tmp_path / "store"
    opened(train, folder)
    before = names(folder)
    shuffled = reordered(train, order)
    store = opened(shuffled, folder)
    assert names(folder) == before
    np.testing.assert_array_equal(store.images[store.rows], directly(shuffled))
    fewer = reordered(train, order[:count])
    store = opened(fewer, tmp_path / "fewer")
    np.testing.assert_array_equal(store.images[store.rows], directly(fewer))


def test_a_changed_file_is_decoded_again(train: ImageList, tmp_path: Path, built: list[str]) -> None:
    folder = tmp_path / "store"
    opened(train, folder)
    before = names(folder)
    touch_later(train.paths[3], train.paths[4].read_bytes())  # the same size, other pixels
    store = opened(train, folder)
    assert built == ["train", "train"] and names(folder) != before and len(names(folder)) == 2
    np.testing.assert_array_equal(store.images[store.rows], directly(train))
    np.testing.assert_array_equal(store.images[store.rows[3]], store.images[store.rows[4]])
    assert store.list_digests()[3] == store.list_digests()[4]


def test_another_window_place_or_size_is_another_store(train: ImageList, tmp_path: Path, built: list[str]) -> None:
    folder = tmp_path / "store"
    settings = [SMALL, replace(SMALL, window=32), replace(SMALL, locate="centre"), replace(SMALL, source=16)]
    for _ in range(2):  # the second time every one of them is still there
        for preprocessing in settings:
            store = opened(train, folder, preprocessing)
            np.testing.assert_array_equal(store.images[store.rows], directly(train, preprocessing))
    assert built == ["train"] * 4 and len(names(folder)) == 8
    opened(train, folder, replace(SMALL, size=6, mean=(0.1, 0.1, 0.1), std=(0.9, 0.9, 0.9)))
    assert len(built) == 4  # what comes after the crop does not matter


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

    for path in (train[1], train[6], valid[2]):  # mended, everything goes on
        touch_later(path, train[0].read_bytes())
    stores = open_stores(lists, SMALL, folder)
    for name, images in lists.items():
        np.testing.assert_array_equal(stores[name].images[stores[name].rows], directly(images))


def test_an_image_cut_short_after_the_store_was_built_is_noticed(train: ImageList, tmp_path: Path) -> None:
    opened(train, tmp_path / "store")
    touch_later(train.paths[0], train.paths[0].read_bytes()[:3000])
    with pytest.raises(UserError, match=r"line 2: ./train/0\.bmp: damaged"):
        opened(train, tmp_path / "store")
    assert names(tmp_path / "store") == []


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("kind", ["missing", "empty", "half", "zeros", "header", "other", "pixel"])
def test_a_damaged_store_is_built_again(
    suffix: str, kind: str, train: ImageList, tmp_path: Path, built: list[str]
) -> None:
    folder = tmp_path / "store"
    opened(train, folder)
    (path,) = (path for path in folder.iterdir() if path.suffix == suffix)
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "other" and suffix == ".npy":
        np.save(path, np.zeros((3, 24, 24, 3), np.uint8))  # a whole file, of other images
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
    store = opened(train, folder)
    assert built == ["train", "train"]
    np.testing.assert_array_equal(store.images[store.rows], directly(train))
    assert len(store.list_digests()) == len(train) and len(names(folder)) == 2


def test_a_stop_in_the_middle_leaves_no_store(
    train: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(lab.data.store, "decode", stop)
        with pytest.raises(KeyboardInterrupt):
            opened(train, folder)
    assert names(folder) == []
    store = opened(train, folder)
    np.testing.assert_array_equal(store.images[store.rows], directly(train))


def test_two_that_need_the_same_store_build_it_once(
    train: ImageList,
    tmp_path: Path,
    built: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As when two depths are trained at once: the second comes in between the first one's two files, and waits."""
    folder, second, write = tmp_path / "store", ThreadPoolExecutor(1), lab.data.store.write_whole
    found: list[Future[Store]] = []

    def late(path: Path, data: str) -> None:
        found.append(second.submit(opened, train, folder))
        while "waiting for it" not in capsys.readouterr().out and not found[0].done():
            time.sleep(0.005)
        write(path, data)

    monkeypatch.setattr(lab.data.store, "write_whole", late)
    first = opened(train, folder)
    other = found[0].result(60)
    assert built == ["train"] and first.digests == other.digests
    np.testing.assert_array_equal(first.images, other.images)


def test_what_a_killed_process_left_of_an_older_store_goes_with_it(train: ImageList, tmp_path: Path) -> None:
    opened(train, tmp_path / "store")
    half = tmp_path / "store" / ".train-cell40-24px-0123456789.npy.elsewhere-1.tmp"
    half.mkdir()
    (half / "x.npy").write_text("half")
    train.paths[0].write_bytes(train.paths[1].read_bytes())
    opened(train, tmp_path / "store")
    assert not half.exists() and len(names(tmp_path / "store")) == 2


def test_lists_that_share_an_image_by_content_show_it_in_their_digests(
    make_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = read_data_set(make_data())
    lists = {name: read_list(data, name, labelled=True) for name in ("train", "valid")}
    lists["valid"].paths[1].write_bytes(lists["train"].paths[5].read_bytes())
    stores = open_stores(lists, SMALL, tmp_path / "store")
    shared = set(stores["train"].digests) & set(stores["valid"].digests)
    assert [digest in shared for digest in stores["valid"].list_digests()] == [False, True, False, False]
