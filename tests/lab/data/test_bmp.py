"""lab.data.bmp: run-length encoded pixels and channel masks are read right, or refused."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab.data.images import decode


def bmp(pixels: bytes, width: int, height: int, bits: int, compression: int, extra: bytes = b"") -> bytes:
    """A BMP file with a BITMAPINFOHEADER; ``extra`` is what follows it: the palette, or the masks."""
    offset, colours = 54 + len(extra), len(extra) // 4 if bits <= 8 else 0
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + extra + pixels


@st.composite
def run_lengths(draw: st.DrawFn, bits: int) -> tuple[np.ndarray, bytes]:
    """Palette indices [H, W] and one of their encodings: runs and literal pixels of drawn lengths."""
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    values = st.integers(0, 2**bits - 1)
    indices = np.zeros((height, width), np.uint8)
    data = bytearray()

    def packed(row: list[int]) -> bytes:
        if bits == 8:
            return bytes(row)
        return bytes(first << 4 | second for first, second in itertools.zip_longest(row[::2], row[1::2], fillvalue=0))

    for y in reversed(range(height)):  # from bottom to top
        x = 0
        while x < width:
            length = draw(st.integers(1, min(width - x, 20)))
            if length > 2 and draw(st.booleans()):
                row = draw(st.lists(values, min_size=length, max_size=length))
                data += bytes([0, length]) + packed(row) + bytes(len(packed(row)) % 2)
            else:
                first, second = draw(values), draw(values)
                row = (
                    ([first] * length)
                    if bits == 8
                    else list(itertools.islice(itertools.cycle([first, second]), length))
                )
                data += bytes([length]) + packed([first] if bits == 8 else [first, second])
            indices[y, x : x + length] = row
            x += length
        data += b"\0\0"
    return indices, bytes(data) + b"\0\1"


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2)])
def test_run_length_encoded_pixels_are_read_right_or_refused(bits: int, compression: int) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (2**bits, 4), np.uint8)

    @given(run_lengths(bits), st.data())
    def check(made: tuple[np.ndarray, bytes], draw: st.DataObject) -> None:
        indices, data = made
        height, width = indices.shape
        expected = palette[indices][..., 2::-1]  # stored as blue, green, red, 0
        np.testing.assert_array_equal(decode(bmp(data, width, height, bits, compression, palette.tobytes())), expected)
        cut = data[: draw.draw(st.integers(0, len(data) - 5))]  # at least a pixel is gone
        for broken, size in ((cut, width), (data, max(1, width - 1))):
            if broken is data and width == 1:
                continue
            with pytest.raises(ValueError, match=r"leave their row|missing|damaged"):
                decode(bmp(broken, size, height, bits, compression, palette.tobytes()))

    check()


def test_an_index_beyond_the_palette_is_refused() -> None:
    palette = bytes(4 * 3)
    for pixels, compression in ((b"\4\3\0\1", 1), (b"\0\1\2\3", 0)):
        with pytest.raises(ValueError, match="not in the palette"):
            decode(bmp(pixels, 4, 1, 8, compression, palette))


@pytest.mark.parametrize("masks", [*itertools.permutations([0xFF, 0xFF00, 0xFF0000]), (0xFF000000, 0xFF0, 0xFF000)])
def test_eight_bit_channels_anywhere_in_a_pixel(masks: tuple[int, ...]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    shifts = np.array([(mask & -mask).bit_length() - 1 for mask in masks], np.uint32)
    words = (rgb.astype(np.uint32) << shifts).sum(axis=2)
    for rows, height in ((words[::-1], 3), (words, -3)):  # from bottom to top, and from top to bottom
        content = bmp(np.asarray(rows, "<u4").tobytes(), 5, height, 32, 3, struct.pack("<3I", *masks))
        np.testing.assert_array_equal(decode(content), rgb)


@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)])
def test_narrow_channels_are_scaled_to_the_nearest_value(masks: tuple[int, ...]) -> None:
    words = np.random.default_rng(0).integers(0, 2**16, (4, 7), np.uint16)
    content = bmp(np.pad(words[::-1], ((0, 0), (0, 1))).tobytes(), 7, 4, 16, 3, struct.pack("<3I", *masks))
    exact = np.stack([(words & mask) / mask * 255 for mask in masks], axis=2)
    pixels = decode(content)
    assert np.abs(pixels - exact).max() <= 0.5
    with Image.open(io.BytesIO(content)) as pillow:  # it rounds down
        assert np.abs(pixels.astype(int) - np.asarray(pillow)).max() <= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bmp(bytes(40), 4, 4, 32, 3, struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)), "rows are missing"),
        (bmp(bytes(64), 4, 4, 32, 3, struct.pack("<3I", 0xF0F, 0xFF00, 0xFF0000)), "not adjacent"),
        (bmp(bytes(64), 4, 4, 24, 3, struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)), "16 or 32 bits"),
        (bmp(b"\4\0\0\1" + bytes(20), 4, -1, 8, 1, bytes(1024)), "from top to bottom"),
        (bmp(b"\4\0\0\1" + bytes(20), 30_000, 30_000, 8, 1, bytes(1024)), "larger than"),
    ],
)
def test_what_cannot_be_read_has_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(content)


def test_files_that_were_read_wrongly(shared_data: Callable[[str], Path]) -> None:
    cases = shared_data("cases")
    with Image.open(cases / "bmp4_rle4_valid.truth.png") as truth:
        np.testing.assert_array_equal(decode((cases / "bmp4_rle4_valid.bmp").read_bytes()), truth.convert("RGB"))
    whole = decode((cases / "bmp32_bitfields_odd_masks.bmp").read_bytes())
    np.testing.assert_array_equal(decode((cases / "bmp32_v4_alpha_zero.bmp").read_bytes()), whole)  # the same picture
    assert whole.max() > 150
