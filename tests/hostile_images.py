"""Generated images for the tests test_fuzz_*: of every format, damaged, or with arbitrary fields in their headers."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.hostile import broken

FORMATS = ["BLP", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MSP", "PCX", "PNG", "PPM", "QOI", "SGI"]
FORMATS += ["SPIDER", "TGA", "TIFF", "WEBP", "XBM"]
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "I", "F"]
OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    *[("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")],
    *[("TIFF", "1", {"compression": name}) for name in ("group3", "group4")],
    ("JPEG", "RGB", {"progressive": True}),
    ("AVIF", "RGBA", {}),
    ("MPO", "RGB", {}),
    ("TGA", "RGB", {"compression": "tga_rle"}),
    ("PNG", "P", {"transparency": b"\0\x80\xff"}),
    ("PNG", "P", {"bits": 2}),
    ("PNG", "RGB", {"transparency": (9, 9, 9)}),
    ("WEBP", "RGBA", {"lossless": True}),
]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n%%EndComments\nshowpage\n%%EOF\n"


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def samples() -> dict[str, bytes]:
    """Return a small image in every format and pixel type that Pillow can write, and some animations."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 4), np.uint8)
    files: dict[str, bytes] = {}
    for kind, mode, options in [*((kind, mode, {}) for kind in FORMATS for mode in MODES), *OPTIONS]:
        if (kind, mode, options) == ("TIFF", "YCbCr", {}):
            continue  # Pillow before 13 writes such files without compression, but cannot read them
        grey = Image.fromarray(noise[..., 0])
        image = Image.fromarray(noise).convert("RGB").convert(mode) if mode in ("LAB", "HSV", "CMYK") else grey
        if mode == "I;16B":
            image = Image.frombytes(mode, (20, 16), noise[..., :2].tobytes())
        try:
            files[" ".join([kind, mode, *map(str, options.values())])] = encode(image.convert(mode), kind, **options)
        except (OSError, ValueError, KeyError, SystemError):
            continue  # the format does not support this pixel type
    frames = [Image.fromarray(noise[..., :3] // (index + 1)) for index in range(3)]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        files[f"{kind} animated"] = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    return files


NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 4, 8, 9, 16, 24, 32, 64, 255, 256, 20_000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
)


@st.composite
def bitmap(draw: st.DrawFn) -> bytes:
    """A BMP with arbitrary fields in its header, including rare sizes and depths."""
    sizes = NUMBERS | st.just(20)
    size = draw(st.sampled_from([12, 40, 40, 52, 56, 64, 108, 124, 7, 0xFFFFFFFF]))
    width, height, offset = draw(sizes), draw(sizes), draw(st.just(54) | NUMBERS)
    bits = draw(st.sampled_from([0, 1, 2, 4, 8, 16, 24, 32, 64]))
    method = draw(st.sampled_from([0, 0, 1, 2, 3, 4, 5, 11, 99]))
    rest = draw(NUMBERS), 1, 1, draw(NUMBERS), draw(NUMBERS)
    header = struct.pack("<IIHHIIIIII", width, height, 1, bits, method, *rest)
    if size == 12:
        header = struct.pack("<HHHH", width & 0xFFFF, height & 0xFFFF, 1, bits)
    pixels = draw(st.binary(max_size=80)) + bytes(draw(st.sampled_from([0, 100, 2000])))
    return b"BM" + struct.pack("<IHHI", 9, 0, 0, offset) + struct.pack("<I", size) + header + pixels


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@st.composite
def png(draw: st.DrawFn) -> bytes:
    """A PNG of arbitrary chunks with correct checksums, so that their contents are read."""
    sizes = st.sampled_from([0, 1, 5, 20, 64, 20_000, 0x7FFFFFFF, 0xFFFFFFFF])
    depth, kind = draw(st.sampled_from([1, 2, 4, 8, 16, 3])), draw(st.sampled_from([0, 2, 3, 4, 6, 1, 9]))
    data = chunk(b"IHDR", struct.pack(">IIBBBBB", draw(sizes), draw(sizes), depth, kind, 0, 0, draw(st.integers(0, 2))))
    names = b"PLTE tRNS gAMA pHYs iCCP tEXt zTXt iTXt eXIf acTL fcTL fdAT sRGB".split()
    for name in draw(st.lists(st.sampled_from(names), max_size=4)):
        data += chunk(name, draw(st.binary(max_size=30)) + bytes(draw(st.sampled_from([0, 26, 768]))))
    pixels = draw(st.binary(max_size=40)) + bytes(draw(st.sampled_from([0, 50, 3000])))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@st.composite
def tiff(draw: st.DrawFn) -> bytes:
    """A TIFF with an arbitrary directory: the tags that define how pixels are read, of any type, count and value."""
    order = draw(st.sampled_from("<>"))
    usual = {256: 20, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: 320}
    rare = [254, 266, 282, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347, 530, 34665, 700]
    for tag in draw(st.lists(st.sampled_from([*usual, *rare]), max_size=4)):
        usual[tag] = draw(NUMBERS | st.sampled_from([5, 6, 7, 32773, 34712, 8, 50000]))
    entries = b""
    for tag, value in sorted(usual.items()):
        odd = draw(st.integers(0, 9)) == 0
        kind, count = (draw(st.integers(0, 18)), draw(NUMBERS)) if odd else (4, 1)
        entries += struct.pack(f"{order}HHII", tag, kind, count, value)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 328)
    data = start + bytes(draw(st.binary(max_size=20)).ljust(320, b"\x80"))
    following = draw(st.sampled_from([0, 0, 8, 328]))
    return data + struct.pack(f"{order}H", len(usual)) + entries + struct.pack(f"{order}I", following)


@st.composite
def gif(draw: st.DrawFn) -> bytes:
    """A GIF of arbitrary blocks: inconsistent sizes of screen and frames, missing palettes, any extension."""
    short = st.sampled_from([0, 1, 5, 20, 255, 20_000, 0xFFFF])
    flags = draw(st.sampled_from([0, 0x80, 0x87, 0xF7]))
    data = b"GIF89a" + struct.pack("<HHBBB", draw(short), draw(short), flags, draw(st.integers(0, 255)), 0)
    data += bytes(range(6)) * draw(st.integers(0, 3))
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            kind, content = draw(st.sampled_from([b"\xf9", b"\xff", b"\xfe", b"\x01"])), draw(st.binary(max_size=6))
            data += b"!" + kind + b"\4" + content + b"\0"
        frame = [draw(st.sampled_from([0, 0, 1, 5, 0xFFFF])) for _ in range(2)] + [draw(short), draw(short)]
        data += b"," + struct.pack("<HHHHB", *frame, draw(st.sampled_from([0, 0x40, 0x80, 0xC7])))
        data += bytes([draw(st.integers(0, 13))]) + b"\5" + draw(st.binary(min_size=5, max_size=5)) + b"\0"
    return data + b";"


@st.composite
def any_image(draw: st.DrawFn) -> bytes:
    """Bytes that resemble an image file."""
    name = draw(st.sampled_from(sorted(samples())))
    match draw(st.integers(0, 11)):
        case 0 | 1 | 2 | 3:
            return draw(st.one_of(bitmap(), png(), tiff(), gif()))
        case 4:  # the beginning of one format followed by another
            other = samples()[draw(st.sampled_from(sorted(samples())))]
            return samples()[name][: draw(st.integers(2, 200))] + other[draw(st.integers(0, 60)) :]
        case 5:
            return samples()[name][: draw(st.integers(0, 40))] + draw(st.binary(max_size=200))
        case 6:
            return draw(broken(POSTSCRIPT))
    return draw(broken(samples()[name], near=draw(st.sampled_from([60, 300, 1 << 30]))))
