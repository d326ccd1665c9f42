"""The store: every image of a list decoded and cropped once, and memory-mapped as uint8 from then on.

A store is two files: ``….npy`` (uint8 [N, S, S, 3], one row per distinct path, paths sorted) and ``….json`` (the SHA-256
of each image file's bytes, and a CRC-32 of these and the ``.npy``). The key covers the paths, the files' sizes and times, all
that decides the crop and the code that crops, so a changed file, setting or version finds no store and builds a new one; and
so does one whose checksum is another. Lists of the same images in another order share a store.
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

import numpy as np
import PIL

from lab.data.images import decode
from lab.data.lists import ImageList, problems_error
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError
from lab.files import alone, replacing, reserve, write_whole
from lab.hardware import decoding_threads
from lab.terminal import progress, warn
from lab.text import counted


@dataclass(frozen=True)
class Store:
    """``images`` uint8 [N, S, S, 3], memory-mapped; ``rows[i]`` is the row of the list's image i, ``digests[row]`` its hash."""

    images: np.ndarray
    rows: np.ndarray
    digests: list[str]

    def list_digests(self) -> list[str]:
        """The digest of each image's file, in the order of the list."""
        return [self.digests[row] for row in self.rows]


@functools.cache
def code_version() -> str:
    """A hash of the code that decides what a store holds, and the version of Pillow, which decodes."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for name in ("images.py", "preprocessing.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def store_key(paths: list[Path], preprocessing: Preprocessing) -> str:
    """What a store's content depends on, hashed."""
    crop = [code_version(), preprocessing.window, preprocessing.locate, preprocessing.source]
    digest = hashlib.sha256(json.dumps(crop).encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError:  # gone since the list was checked: decoding reports it by row
            continue
        digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def open_stores(lists: dict[str, ImageList], preprocessing: Preprocessing, folder: Path) -> dict[str, Store]:
    """The store of each list, built first where there is none.

    Every unreadable image of all the lists is reported together in one :class:`lab.errors.UserError`; of their
    lists nothing is kept then.
    """
    stores, problems = {}, []
    for name, images in lists.items():
        paths = sorted(set(images.paths))
        kind = f"{name}-{preprocessing.locate}{preprocessing.window}-{preprocessing.source}px"
        stem = f"{kind}-{store_key(paths, preprocessing)}"
        store = load(folder, stem, paths, images.paths, preprocessing.source)
        if store is None:
            with alone(folder, "decoding images", wait=True):  # another depth's training may be at it
                store = load(folder, stem, paths, images.paths, preprocessing.source)
                if store is None:
                    take_away(folder, kind)
                    reasons = build(folder / stem, name, paths, preprocessing)
                    problems += [
                        images.problem(index, reasons[path])
                        for index, path in enumerate(images.paths)
                        if path in reasons
                    ]
                    store = load(folder, stem, paths, images.paths, preprocessing.source)
                    if store is None and not reasons:
                        raise UserError(
                            f"{folder / stem}.npy: cannot be read again just after it was written; is the disk whole?"
                        )
        if store is not None:
            stores[name] = store
    if problems:
        raise problems_error(f"{counted(len(problems), 'image')} cannot be used:", problems)
    return stores


def take_away(folder: Path, kind: str) -> None:
    """Delete the stores of the same list and crop, whose files have changed since, and what was half written of them."""
    for stale in folder.glob(f"{kind}-*"):
        stale.unlink(missing_ok=True)
    for half in folder.glob(f".{kind}-*.tmp"):
        shutil.rmtree(half, ignore_errors=True)


def load(folder: Path, stem: str, paths: list[Path], listed: list[Path], side: int) -> Store | None:
    """Open a store, or None where it is missing or not whole."""
    try:
        images = np.load(folder / f"{stem}.npy", mmap_mode="r")
        manifest = json.loads((folder / f"{stem}.json").read_text())
        digests = manifest["sha256"]
        whole = images.shape == (len(paths), side, side, 3) and images.dtype == np.uint8 and len(digests) == len(paths)
        whole = whole and manifest["crc32"] == checksum(folder / f"{stem}.npy", digests)
    except Exception:  # numpy answers damage with EOFError, TokenError, BadZipFile and others; it is built again
        return None
    if not whole:
        return None
    place = {path: row for row, path in enumerate(paths)}
    return Store(images, np.array([place[path] for path in listed]), digests)


def checksum(path: Path, digests: list[str]) -> int:
    """CRC-32 of the digests and a file, read piece by piece: what is mapped would count as memory of the process."""
    crc = zlib.crc32("".join(digests).encode())
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            crc = zlib.crc32(piece, crc)
    return crc


def build(stem: Path, name: str, paths: list[Path], preprocessing: Preprocessing) -> dict[Path, Exception]:
    """Decode and crop ``paths`` into a new store, in parallel; returns the reasons of those that cannot be decoded, and then
    keeps nothing."""
    reasons: dict[Path, Exception] = {}
    array = stem.with_name(f"{stem.name}.npy")
    with replacing(array) as temporary:
        shape = (len(paths), preprocessing.source, preprocessing.source, 3)
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        reserve(temporary)

        def decode_one(row: int) -> str:
            try:
                data = paths[row].read_bytes()
                images[row] = preprocessing.crop(decode(data))
                return hashlib.sha256(data).hexdigest()
            except (OSError, ValueError) as error:
                reasons[paths[row]] = error
                return ""

        # Pillow releases the interpreter lock while it decodes and resizes, so threads are enough.
        with ThreadPoolExecutor(decoding_threads()) as pool:
            # Handed out by the thousand: what waits for a thread takes memory, 2 KiB an image (benchmarks/scale.py).
            numbers = range(len(paths))
            parts = (pool.map(decode_one, numbers[begin : begin + 1000]) for begin in range(0, len(paths), 1000))
            digests = list(progress(chain.from_iterable(parts), f"decoding {name}", len(paths)))
        images.flush()
    if reasons:
        array.unlink()
    else:
        write_whole(
            stem.with_name(f"{stem.name}.json"), json.dumps({"crc32": checksum(array, digests), "sha256": digests})
        )
    return reasons


def warn_of_shared_images(stores: dict[str, Store]) -> None:
    """Warn where train and valid hold the same image, by path or by content: valid accuracy would flatter."""
    shared = set(stores["train"].digests) & set(stores["valid"].digests)
    if shared:
        count = sum(digest in shared for digest in stores["valid"].list_digests())
        held = counted(count, "image")
        warn(f"train.csv holds {held} of valid.csv too, byte for byte; its accuracy will flatter.")
