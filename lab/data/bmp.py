"""BMP files that Pillow refuses or decodes wrongly: run-length encoded pixels (RLE4, RLE8), and channels at any bits of a pixel.

Source: Microsoft, Windows GDI reference, "Bitmap Compression" and "BITMAPV4HEADER structure".
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

HEADERS = (40, 52, 56, 108, 124)  # sizes of BITMAPINFOHEADER and its later versions
RLE8, RLE4, BITFIELDS, ALPHABITFIELDS = 1, 2, 3, 6


def open_bmp(data: bytes, limit: float) -> Image.Image | None:
    """The image of a BMP file with one of the compressions above; None for any other file, which Pillow reads.

    Raises ``ValueError`` if the pixels are not whole, ``Image.DecompressionBombError`` if there are more than ``limit``.
    """
    if data[:2] != b"BM" or len(data) < 70:
        return None
    (offset,) = struct.unpack_from("<I", data, 10)
    size, width, height, _, bits, compression, _, _, _, colours, _ = struct.unpack_from("<IiiHHIIiiII", data, 14)
    if size not in HEADERS or compression not in (RLE8, RLE4, BITFIELDS, ALPHABITFIELDS) or width < 1 or height == 0:
        return None
    if width * abs(height) > limit:
        raise Image.DecompressionBombError
    if compression in (RLE8, RLE4):
        if bits != (8 if compression == RLE8 else 4) or height < 0:
            raise ValueError("run-length encoding with other bits, or from top to bottom")
        indices = unpack_rle(data[offset:], width, height, compression == RLE4)
        colours = min(colours or 1 << bits, 1 << bits)
        palette = np.frombuffer(data, np.uint8, 4 * colours, 14 + size).reshape(-1, 4)
        if indices.max() >= colours:
            raise ValueError("a pixel has a colour that is not in the palette")
        return Image.fromarray(palette[indices][..., 2::-1])
    if bits not in (16, 32):
        raise ValueError("channel masks need pixels of 16 or 32 bits")
    masks = struct.unpack_from("<4I", data, 54)
    if (size == 40 and compression == BITFIELDS) or size == 52:  # three masks, then palette or pixels
        masks = (*masks[:3], 0)
    return Image.fromarray(unpack_masks(data[offset:], width, height, bits, masks))


def unpack_rle(data: bytes, width: int, height: int, four_bits: bool) -> np.ndarray:
    """Palette indices uint8 [H, W] of run-length encoded pixels; ``ValueError`` if a run leaves its row or pixels are missing."""
    if width * height > 128 * len(data):  # two bytes hold 255 pixels at most; said before the memory is taken
        raise ValueError("pixels are missing from the run-length encoding")
    pixels = np.full((height, width), -1, np.int16)
    x = y = at = 0
    while at + 1 < len(data):
        count, value = data[at], data[at + 1]
        at += 2
        if count == 0 and value == 0:  # end of the row
            x, y = 0, y + 1
            continue
        if count == 0 and value == 1:  # end of the image
            break
        if count == 0 and value == 2:  # skip pixels, which stay missing
            x, y, at = x + data[at], y + data[at + 1], at + 2
            continue
        length = count or value  # a run of one value, or else that many values
        stored = (length + 1) // 2 if four_bits else length
        values = np.full(stored, value, np.uint8) if count else np.frombuffer(data[at : at + stored], np.uint8)
        at += 0 if count else stored + stored % 2
        if four_bits:
            values = np.stack([values >> 4, values & 15], axis=1).ravel()[:length]
        if y >= height or x + length > width or len(values) < length:
            raise ValueError("run-length encoded pixels leave their row")
        pixels[y, x : x + length] = values
        x += length
    if pixels.min() < 0:
        raise ValueError("pixels are missing from the run-length encoding")
    return pixels[::-1].astype(np.uint8)


def unpack_masks(data: bytes, width: int, height: int, bits: int, masks: tuple[int, ...]) -> np.ndarray:
    """Pixels whose channels are the bits of four ``masks``: RGB uint8 [H, W, 3], with an alpha mask RGBA [H, W, 4]."""
    row = (width * bits // 8 + 3) // 4 * 4  # bytes, padded to whole words
    if len(data) < row * abs(height):
        raise ValueError("rows are missing")
    rows = np.frombuffer(data, np.uint8, row * abs(height)).reshape(abs(height), row)
    words = np.ascontiguousarray(rows[:, : width * bits // 8]).view(f"<u{bits // 8}").astype(np.uint64)
    channels = []
    for mask in masks if masks[3] else masks[:3]:
        shift = (mask & -mask).bit_length() - 1 if mask else 0
        most = mask >> shift
        if most & (most + 1) or mask >> bits:
            raise ValueError("the bits of a channel are not adjacent")
        values = (words & np.uint64(mask)) >> np.uint64(shift)
        channels.append(((values * 510 + most) // (2 * most) if most else values).astype(np.uint8))  # rounded to 0…255
    pixels = np.stack(channels, axis=2)
    return pixels if height < 0 else pixels[::-1]
