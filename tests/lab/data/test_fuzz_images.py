"""Generated images, damaged and hostile, and stores of them; see tests/lab/data/test_fuzz_lists.py."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from lab.data.images import decode, read_values
from lab.data.lists import ImageList, read_data_set, read_lists
from lab.data.preprocessing import Preprocessing, choose_preprocessing, choose_window
from lab.data.store import open_stores
from tests.hostile import Tree, hostile, problems, refused
from tests.hostile_images import any_image, bitmap, chunk, encode, gif, png, samples, tiff

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest replaces the filter of lab.data.images


def decoded(content: bytes) -> np.ndarray | None:
    """The pixels, or None if decoding raised an error with a reason on one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of this project's code; for Pillow's see test_images.py
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            pixels = decode(content)
        except ValueError as error:
            assert type(error) is ValueError
            assert str(error).isprintable() and 0 < len(str(error)) < 300 and not str(error).endswith("()")
            return None
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    return pixels


def test_whole_images_of_every_format_are_decoded() -> None:
    assert len(samples()) > 100
    for name, content in samples().items():
        pixels = decoded(content)
        assert pixels is not None and pixels.shape == ((13, 16, 3) if name.startswith("ICO") else (16, 20, 3)), name


@hostile(any_image(), share=1.5)
def test_any_bytes_are_an_image_or_an_error_with_a_reason(content: bytes) -> None:
    decoded(content)


@hostile(st.one_of(bitmap(), png(), tiff(), gif()), share=0.8)
def test_headers_of_any_fields(content: bytes) -> None:
    decoded(content)


@st.composite
def any_pixels(draw: st.DrawFn) -> np.ndarray:
    """An image of any size: black, white, noise, or a disc on black or white."""
    height, width = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 3), (5, 4), (40, 40), (1, 5000), (5000, 1)]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x - width / 2, y - height / 2) < draw(st.sampled_from([1, 3, 12]))
    kind = draw(st.integers(0, 4))
    level = {0: 0, 1: 255, 2: rng.integers(0, 256, (height, width)), 3: disc * 200, 4: 255 - disc * 200}[kind]
    return np.repeat(np.broadcast_to(np.asarray(level), (height, width))[..., None], 3, axis=2).astype(np.uint8)


@hostile(st.lists(any_pixels(), min_size=1, max_size=4), share=0.4)
def test_images_of_any_size_have_a_window_that_crops_them_all(images: list[np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        side, locate, reason = choose_window(images)
        assert 1 <= side <= 16384 and reason.isprintable()
        for image in images:
            assert Preprocessing(side, 24, 12, locate).crop(image).shape == (24, 24, 3)


SIDE = (20_000).to_bytes(4, "little")
FILES: dict[str, bytes] = {
    "zero bytes": b"",
    "text": b"Path,label\n0.bmp,1\n",
    "a page": b"<!DOCTYPE html><title>404</title>",
    "zeros": bytes(500),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n%%EndComments\n(x) run\n%%EOF\n",
    "PNG bomb": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", 2 * SIDE[::-1] + b"\1\0\0\0\0") + chunk(b"IDAT", b""),
    "BMP bomb": samples()["BMP 1"][:18] + 2 * SIDE + samples()["BMP 1"][26:],
    "1×1": encode(Image.new("RGB", (1, 1), (9, 9, 9)), "BMP"),
    "1×5000": encode(Image.new("L", (1, 5000), 99), "PNG"),
}
UNUSABLE = list(FILES)[:-2]


@functools.cache
def eight_bit_samples() -> list[str]:
    """Whether greys of more than 8 bits can be used depends on the training list (test_store: greys of twelve bits)."""
    return [name for name, content in samples().items() if read_values(content)[0].ndim == 3]


@hostile(st.data(), share=0.2)
def test_a_store_holds_every_row_or_every_bad_row_is_named(tree: Tree, data: st.DataObject) -> None:
    """Whole images of any format and extension, mixed with unusable ones, are read as by a training."""
    usable = [*FILES, *(name for name in eight_bit_samples() if not name.startswith(("AVIF", "ICO")))]
    with tempfile.TemporaryDirectory(dir=tree.top) as temporary:
        folder = Path(temporary)
        bad: dict[str, Path] = {}
        good: dict[str, Path] = {}
        whole = st.sampled_from([name for name in usable if name not in UNUSABLE])
        kinds = whole if data.draw(st.booleans()) else whole | st.sampled_from(UNUSABLE)
        for name in ("train", "valid"):
            text = "Path,label\n"
            for line in range(2, 2 + data.draw(st.integers(2, 5))):
                kind = data.draw(kinds)
                ending = data.draw(st.sampled_from([".bmp", ".png", ".jpg", ".tif", "", ".txt"]))
                path = folder / f"{name}-{line}{ending}"
                path.write_bytes(FILES[kind] if kind in FILES else samples()[kind])
                text += f"{path.name},{line % 2}\n"
                (bad if kind in UNUSABLE else good)[f"{name}.csv line {line}: {path.name}: "] = path
            (folder / f"{name}.csv").write_text(text)
        if data.draw(st.integers(0, 3)) == 0:  # if one is missing, all are decoded when the lists are read
            (folder / "valid.csv").write_text(text + "gone.bmp,1\n")
            bad[f"valid.csv line {line + 1}: gone.bmp does not exist"] = folder
        lists: dict[str, ImageList] = {}
        stores: dict[str, Any] = {}

        def start() -> None:
            lists.update(read_lists(read_data_set(folder), ("train", "valid")))
            chosen = choose_preprocessing(lists["train"], 8)
            stores.update(open_stores(lists, chosen, folder / "store"), chosen=chosen)

        message = refused(start)
        if bad:
            listed, expected = problems(message), [*bad]
            if "of the sampled images can be used" in message:  # no image of the training list can be read
                expected = [text for text in bad if text.startswith("train")]
                assert len(expected) == len(lists["train"])
            assert len(listed) == min(10, len(expected)), message
            assert all(text.startswith(tuple(expected)) for text in listed), message
            assert not any(list(folder.glob(f"store/{text.split('.')[0]}-*")) for text in bad)
            return
        for name, images in lists.items():
            assert len(stores[name].rows) == len(images) == sum(text.startswith(name) for text in good)
            for row, path in zip(stores[name].rows, images.paths, strict=True):
                crop = stores["chosen"].crop(decode(path.read_bytes(), white=stores["chosen"].white))
                np.testing.assert_array_equal(stores[name].images[row], crop)
