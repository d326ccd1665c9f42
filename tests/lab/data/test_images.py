"""lab.data.images: every format and pixel type becomes RGB uint8 with the right values, or an error that names the file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.data.images import SUFFIXES, decode, read_image
from lab.errors import UserError
from tests.hostile_images import POSTSCRIPT, chunk, encode

RED, GREEN, BLUE, BROWN = (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50)


def blocks(values: list[Any], kind: type = np.uint8) -> np.ndarray:
    """Four flat blocks of 16×16 px, upper left, upper right, lower left, lower right: flat enough for JPEG."""
    return np.array(values, kind).reshape(2, 2, -1).repeat(16, axis=0).repeat(16, axis=1).squeeze()


def triples(values: list[int]) -> np.ndarray:
    """Four blocks of grey as RGB."""
    return blocks([(value,) * 3 for value in values])


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    """A palette image whose blocks are entries 0 to 3."""
    image = Image.new("P", (32, 32))
    image.putpalette([part for colour in colours for part in colour])
    image.putdata(blocks([0, 1, 2, 3]).ravel().tolist())
    return image


RGB = blocks([RED, GREEN, BLUE, BROWN])
GREYS = [0, 80, 160, 255]


@pytest.mark.parametrize(("file_format", "tolerance"), [("BMP", 0), ("PNG", 0), ("TIFF", 0), ("JPEG", 4)])
def test_rgb_and_grey_keep_their_values_in_every_format(file_format: str, tolerance: int) -> None:
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    for image, expected in ((Image.fromarray(RGB), RGB), (Image.fromarray(blocks(GREYS)), triples(GREYS))):
        pixels = decode(encode(image, file_format, **options))
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        np.testing.assert_allclose(pixels.astype(int), expected, atol=tolerance)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_red_image_stays_red(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"red{suffix}"
    Image.new("RGB", (20, 10), RED).save(path)
    pixels = read_image(path)
    assert pixels.shape == (10, 20, 3)  # height first
    assert (pixels[..., 0] > 250).all() and (pixels[..., 1:] < 5).all()


@pytest.mark.parametrize("file_format", ["BMP", "PNG", "TIFF"])
def test_one_bit_and_palette_images(file_format: str) -> None:
    one_bit = Image.fromarray(blocks([0, 255, 255, 0])).convert("1")
    np.testing.assert_array_equal(decode(encode(one_bit, file_format)), triples([0, 255, 255, 0]))
    np.testing.assert_array_equal(decode(encode(palette(RED, GREEN, BLUE, BROWN), file_format)), RGB)


def test_transparent_colours_are_composited_on_black() -> None:
    colours = palette(RED, GREEN, BLUE, BROWN)
    one_entry = decode(encode(colours, "PNG", transparency=1))
    np.testing.assert_array_equal(one_entry, blocks([RED, (0, 0, 0), BLUE, BROWN]))
    by_degrees = decode(encode(colours, "PNG", transparency=bytes([255, 0, 51, 128])))
    np.testing.assert_allclose(by_degrees.astype(int), blocks([RED, (0, 0, 0), (0, 0, 51), (100, 50, 25)]), atol=1)
    coloured_key = decode(encode(Image.fromarray(RGB), "PNG", transparency=BROWN))
    np.testing.assert_array_equal(coloured_key, blocks([RED, GREEN, BLUE, (0, 0, 0)]))
    grey_key = decode(encode(Image.fromarray(blocks(GREYS)), "PNG", transparency=255))
    np.testing.assert_array_equal(grey_key, triples([0, 80, 160, 0]))


@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_an_alpha_that_is_the_same_everywhere_is_ignored(alpha: int) -> None:
    rgba = np.concatenate([RGB, np.full_like(RGB[..., :1], alpha)], axis=2)
    for file_format in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode(encode(Image.fromarray(rgba), file_format)), RGB)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_alpha_is_composited_on_black(file_format: str) -> None:
    rgba = Image.fromarray(blocks([(*RED, 255), (*GREEN, 0), (*BLUE, 51), (*BROWN, 128)]))
    pixels = decode(encode(rgba, file_format)).astype(int)
    np.testing.assert_allclose(pixels, blocks([RED, (0, 0, 0), (0, 0, 51), (100, 50, 25)]), atol=1)
    grey = Image.fromarray(blocks([(200, 255), (200, 0), (200, 51), (255, 128)]))
    assert grey.mode == "LA"
    np.testing.assert_allclose(decode(encode(grey, file_format)).astype(int), triples([200, 0, 40, 128]), atol=1)


@pytest.mark.parametrize(("file_format", "tolerance"), [("TIFF", 0), ("JPEG", 4)])
def test_cmyk(file_format: str, tolerance: int) -> None:
    inks = Image.fromarray(blocks([(0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 55)]), "CMYK")
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    pixels = decode(encode(inks, file_format, **options)).astype(int)
    np.testing.assert_allclose(pixels, blocks([RED, GREEN, (0, 0, 0), (200, 200, 200)]), atol=tolerance)


FULL, TWELVE_BIT, FRACTIONS = [0, 0x1234, 0x80FF, 0xFFFF], [0, 1000, 2505, 4095], [0.0, 0.2, 0.5, 1.0]


@pytest.mark.parametrize(
    ("kind", "values", "white", "file_format"),
    [
        *((kind, FULL, 0, name) for kind in ("<u2", ">u2") for name in ("PNG", "TIFF")),
        ("u2", TWELVE_BIT, 4095, "PNG"),  # a camera's 12 bits in 16
        ("u2", TWELVE_BIT, 65535, "TIFF"),  # beside images of the full range
        ("i4", TWELVE_BIT, 4095, "TIFF"),
        ("f4", TWELVE_BIT, 4095, "TIFF"),
        ("f4", FRACTIONS, 0, "TIFF"),
        ("f4", FRACTIONS, 1, "TIFF"),
    ],
)
def test_wide_greys_are_scaled_by_the_white_of_the_data_set(
    kind: str, values: list[float], white: float, file_format: str
) -> None:
    pixels = decode(encode(Image.fromarray(np.array([values], kind)), file_format), white=white)
    exact = np.array(values) * 255 / (white or max(values))
    assert np.abs(pixels[0] - exact[:, None]).max() <= 0.5


@pytest.mark.parametrize(
    ("kind", "values", "white", "reason"),
    [
        ("u2", TWELVE_BIT, 0, "up to 4095, and nothing says which value is white"),
        ("u2", TWELVE_BIT, 1023, "up to 4095, but white is 1023"),
        ("f4", [-300.0, 0, 99], None, "below 0 or not finite"),
        ("f4", [0, np.nan], None, "below 0 or not finite"),
        ("f4", [0, np.inf], None, "below 0 or not finite"),
        ("i4", [-1, 5], 4095, "below 0"),
    ],
)
def test_wide_greys_without_a_known_white_are_refused(
    kind: str, values: list[float], white: float | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(encode(Image.fromarray(np.array([values], kind)), "TIFF"), white=white)


def test_a_declared_depth_is_the_white() -> None:
    """A TIFF of 12 bits, two values in three bytes; Pillow reads but cannot write them (TIFF 6.0, section 8)."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<I", 12) + b"\x80\x0f\xff\0"  # values 2048 and 4095
    content += struct.pack("<H", len(tags)) + entries + bytes(4)
    for white in (None, 0, 65535):
        np.testing.assert_array_equal(decode(content, white=white)[0, :, 0], [128, 255])


def test_sixteen_bit_rgb_png() -> None:
    """Pillow cannot write such files (PNG specification, sections 5 and 11)."""

    def png(pixels: np.ndarray) -> bytes:
        rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    np.testing.assert_array_equal(decode(png(RGB.astype(np.uint16) * 257)), RGB)
    with pytest.raises(ValueError, match="at most 14 of them used"):
        decode(png(RGB.astype(np.uint16) * 16))  # a camera's 12 bits, of which Pillow keeps the upper 4


@pytest.mark.parametrize(("file_format", "tolerance"), [("JPEG", 4), ("PNG", 0), ("WEBP", 0), ("TIFF", 0)])
def test_exif_orientation_is_applied_in_every_format(file_format: str, tolerance: int) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn clockwise to see it upright
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {"lossless": True}
    content = encode(Image.fromarray(RGB), file_format, exif=exif, **options if file_format != "TIFF" else {})
    np.testing.assert_allclose(decode(content).astype(int), np.rot90(RGB, -1), atol=tolerance)


def test_damaged_exif_data_do_not_make_an_image_unreadable() -> None:
    content = encode(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(9))
    np.testing.assert_array_equal(decode(content), RGB)


def test_only_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    pixels = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(pixels, np.full((8, 8, 3), RED))


WHOLE = {
    name: encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)), name)
    for name in ("BMP", "PNG", "JPEG", "TIFF")
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"Path,label\n0.bmp,1\n", "not an image"),
        (b"BM", "damaged|not an image"),
        *[(data[: len(data) // 2], "damaged or truncated") for data in WHOLE.values()],
        (b"\0" * 5000, "not an image"),
    ],
    ids=["empty", "text", "two bytes", *(f"half a {name}" for name in WHOLE), "zeros"],
)
def test_an_unusable_file_is_named_with_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(content)
    path = tmp_path / "cell 7.bmp"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_postscript_is_refused_because_pillow_would_run_it() -> None:
    assert Image.open(io.BytesIO(POSTSCRIPT)).format == "EPS"
    with pytest.raises(ValueError, match="not an image"):
        decode(POSTSCRIPT)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (struct.error("unpack requires 4 bytes"), r"damaged or truncated \(unpack requires 4 bytes\)"),
        (KeyError(277), r"damaged or truncated \(277\)"),
        (ZeroDivisionError(), r"damaged or truncated \(ZeroDivisionError\)"),
        (RuntimeError("a\nb\x1b" + "c" * 999), r"damaged or truncated \(a\\nb\\x1bc+…c+\)"),
        (MemoryError(), "damaged, or larger than the free memory"),
    ],
)
def test_any_exception_of_pillow_becomes_a_reason(
    raised: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> None:
        raise raised

    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", load)
    with pytest.raises(ValueError, match=f"^{reason}$"):
        decode(WHOLE["BMP"])


def test_odd_files_do_not_flood_the_terminal(tmp_path: Path) -> None:
    """Neither Pillow's warnings nor its log reach stderr; in a child process, because pytest sets other filters."""
    good = WHOLE["TIFF"]
    samples = good.index(struct.pack("<HHI", 277, 3, 1)) + 8  # 999 samples per pixel, which Pillow logs
    (tmp_path / "logged").write_bytes(good[:samples] + struct.pack("<H", 999) + good[samples + 2 :])
    (tmp_path / "warned").write_bytes(good[:-20])  # the data of a tag are cut off
    code = "import sys; from lab.data.images import decode\nfor name in sys.argv[1:]:\n"
    code += "    try: decode(open(name, 'rb').read())\n    except ValueError as error: print(error)"
    command = [sys.executable, "-c", code, str(tmp_path / "logged"), str(tmp_path / "warned")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 2


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.bmp", tmp_path):
        with pytest.raises(UserError, match="cannot be read") as caught:
            read_image(path)
        assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_above_pillows_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encode(Image.new("RGB", (10, 10)), "PNG")).shape == (10, 10, 3)
    for side in (11, 12, 40):  # above the limit, and above twice the limit, where Pillow itself raises
        with pytest.raises(ValueError, match=r"^larger than 100 pixels"):
            decode(encode(Image.new("RGB", (side, side)), "PNG"))


def test_libtiff_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF", compression="tiff_lzw")
    data = bytearray(buffer.getvalue())
    data[8:14] = b"\xaa" * 6  # the pixels follow the header
    with pytest.raises(ValueError, match="damaged or truncated"):
        decode(bytes(data))
    assert capfd.readouterr() == ("", "")
