"""The store: each image of a list is decoded and cropped once, and is read from a memory-mapped uint8 array afterwards.

A store is two files: ``….npy`` (uint8 [N, S, S, 3], one row per distinct path, paths sorted) and ``….json`` (the SHA-256
of each image file, and a CRC-32 of these and the ``.npy``). Its name contains a hash of the paths, the files' sizes and times,
the parameters of the crop and the code that crops, so that a change of any of them builds a new store. A store with a wrong
checksum is built again. Lists of the same images in another order share a store.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from lab.data.images import decode
from lab.data.lists import SHOWN, ImageList, problems_error
from lab.data.preprocessing import NO_CELL, Preprocessing
from lab.errors import UserError
from lab.files import alone, replacing, reserve, write_whole
from lab.terminal import progress, warn, warn_once
from lab.text import counted, shown
from lab.threads import decoding_threads


@dataclass(frozen=True)
class Store:
    """``images`` uint8 [N, S, S, 3], memory-mapped; ``rows[i]`` is the row of the list's image i, ``digests[row]`` its hash."""

    images: np.ndarray
    rows: np.ndarray
    digests: list[str]
    blank: frozenset[int] = frozenset()  # rows of images that show nothing, see Preprocessing.shows_nothing

    def list_digests(self) -> list[str]:
        """Return the SHA-256 of each image file, in the order of the list."""
        return [self.digests[row] for row in self.rows]


@functools.cache
def code_version() -> str:
    """Return a hash of the code that decodes and crops, and of Pillow's version."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for name in ("bmp.py", "images.py", "preprocessing.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def store_key(paths: list[Path], preprocessing: Preprocessing) -> str:
    """Return a hash of everything that a store's content depends on."""
    crop = [preprocessing.window, preprocessing.locate, preprocessing.source, preprocessing.white]
    return files_key(paths, crop)


def files_key(paths: list[Path], parameters: list[Any]) -> str:
    """Return a hash of image files, by path, size and time, of the code that decodes them, and of what else is done with them."""
    digest = hashlib.sha256(json.dumps([code_version(), *parameters]).encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError:  # deleted since the list was checked; decoding reports it by row
            continue
        digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def open_stores(lists: dict[str, ImageList], preprocessing: Preprocessing, folder: Path) -> dict[str, Store]:
    """Open the store of each list, building those that do not exist.

    Raises one :class:`lab.errors.UserError` for the unreadable images of all lists; no store of such a list is kept.
    """
    stores, problems = {}, []
    for name, images in lists.items():
        paths = sorted(set(images.paths))
        kind = f"{name}-{preprocessing.locate}{preprocessing.window}-{preprocessing.source}px"
        stem = folder / f"{kind}-{store_key(paths, preprocessing)}"
        arguments = stem, paths, images.paths, preprocessing.source
        store, errors = load(*arguments), dict[Path, Exception]()
        if store is None:
            with alone(folder, "decoding images", wait=True):  # the training of another depth may be building it
                store = load(*arguments)
                if store is None:
                    remove_stale(folder, kind)
                    errors = build(stem, name, paths, preprocessing)
                    store = load(*arguments)
        if store is not None:
            stores[name] = store
            warn_of_blank_images(images, store)
        elif not errors:
            raise UserError(f"{stem}.npy: cannot be read after it was written; check the disk.")
        rows = enumerate(images.paths)
        problems += [images.problem(index, errors[path]) for index, path in rows if path in errors]
    if problems:
        raise problems_error(f"{counted(len(problems), 'image')} cannot be used:", problems)
    return stores


def remove_stale(folder: Path, kind: str) -> None:
    """Delete older stores of the same list and crop, and incomplete ones that a killed process left."""
    for stale in folder.glob(f"{kind}-*"):
        stale.unlink(missing_ok=True)
    for incomplete in folder.glob(f".{kind}-*.tmp"):
        shutil.rmtree(incomplete, ignore_errors=True)


def load(stem: Path, paths: list[Path], listed: list[Path], side: int) -> Store | None:
    """Open a store; returns None if it is missing or damaged."""
    array = stem.with_name(f"{stem.name}.npy")
    try:
        images = np.load(array, mmap_mode="r")
        manifest = json.loads(stem.with_name(f"{stem.name}.json").read_text())
        digests, _ = manifest["sha256"], manifest["blank"]
        intact = images.shape == (len(paths), side, side, 3) and images.dtype == np.uint8 and len(digests) == len(paths)
        intact = intact and manifest["crc32"] == checksum(array, digests)
    except Exception:  # numpy raises EOFError, TokenError, BadZipFile and others on damaged files
        return None
    if not intact:
        return None
    row_of = {path: row for row, path in enumerate(paths)}
    return Store(images, np.array([row_of[path] for path in listed]), digests, frozenset(manifest["blank"]))


def checksum(path: Path, digests: list[str]) -> int:
    """Return the CRC-32 of the digests and a file. Reads in parts, because mapped pages count as the process's memory."""
    crc = zlib.crc32("".join(digests).encode())
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            crc = zlib.crc32(part, crc)
    return crc


def build(stem: Path, name: str, paths: list[Path], preprocessing: Preprocessing) -> dict[Path, Exception]:
    """Decode and crop ``paths`` into a new store, in parallel. Returns the errors of images that cannot be decoded; if there are
    any, the store is deleted."""
    errors: dict[Path, Exception] = {}
    blank: set[int] = set()
    array = stem.with_name(f"{stem.name}.npy")
    with replacing(array) as temporary:
        shape = (len(paths), preprocessing.source, preprocessing.source, 3)
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        reserve(temporary)

        def decode_one(row: int) -> str:
            try:
                data = paths[row].read_bytes()
                image = decode(data, white=preprocessing.white)
                images[row] = preprocessing.crop(image)
                if preprocessing.shows_nothing(image):
                    blank.add(row)
                return hashlib.sha256(data).hexdigest()
            except (OSError, ValueError) as error:
                errors[paths[row]] = error
                return ""

        # Threads suffice, because Pillow releases the interpreter lock while it decodes and resizes.
        with ThreadPoolExecutor(decoding_threads()) as pool:
            # Submitted in parts of 1000, because each submitted image takes 2 KiB of memory (benchmarks/scale.py).
            numbers = range(len(paths))
            parts = (pool.map(decode_one, numbers[begin : begin + 1000]) for begin in range(0, len(paths), 1000))
            digests = list(progress(chain.from_iterable(parts), f"decoding {name}", len(paths)))
        images.flush()
    if errors:
        array.unlink()
    else:
        manifest = {"crc32": checksum(array, digests), "sha256": digests, "blank": sorted(blank)}
        write_whole(stem.with_name(f"{stem.name}.json"), json.dumps(manifest))
    return errors


def warn_of_blank_images(images: ImageList, store: Store) -> None:
    """Warn, once in a process, of images of one colour and, if the cells are on black, of images without a cell."""
    found = [index for index, row in enumerate(store.rows) if row in store.blank]
    if found:
        lines = ", ".join(f"line {images.row(index)} ({shown(images.ids[index])})" for index in found[:SHOWN])
        more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        warn_once(f"{images.csv}: {counted(len(found), 'image')} {NO_CELL}: {lines}{more}.")


def warn_of_shared_images(stores: dict[str, Store]) -> None:
    """Warn if train and valid contain the same image, by path or by content, because valid accuracy is then optimistic."""
    shared = set(stores["train"].digests) & set(stores["valid"].digests)
    if shared:
        count = counted(sum(digest in shared for digest in stores["valid"].list_digests()), "image")
        warn(f"train.csv contains {count} of valid.csv too, byte for byte; the valid accuracy will be optimistic.")
