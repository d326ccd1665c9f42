"""Reads images: every format that Pillow can open becomes RGB uint8."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import math
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lab.data.bmp import open_bmp
from lab.errors import UserError
from lab.text import shown

SUFFIXES = {".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff"}
GREY_BITS = (8, 10, 12, 14, 16, 24, 31)  # bits of a grey value, as cameras and file formats have them
TIFF_BITS_PER_SAMPLE = 258

# Pillow warns of unusual tags in readable files, once per image. The filter is permanent, because temporary ones
# (warnings.catch_warnings) are not safe in the store's threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
# libtiff itself writes to standard error, unless it has no handlers. They are found through Pillow's own library, but on Windows
# they are not.
with contextlib.suppress(AttributeError, OSError):
    pillow = ctypes.CDLL(Image.core.__file__)
    pillow.TIFFSetWarningHandler(None)
    pillow.TIFFSetErrorHandler(None)


def decode(data: bytes, pixels: float = math.inf, white: float | None = None) -> np.ndarray:
    """Decode an image file's bytes to RGB uint8 [H, W, 3].

    Grey, 1-bit, palette, alpha and CMYK images are converted. Transparent pixels are composited on black, the background of
    the lab's images; an alpha that is the same everywhere is ignored. EXIF orientation is applied. Of an animation only the first
    frame is read. Greys of more than 8 bits are scaled by ``white``, see :func:`to_rgb`.

    Raises ``ValueError`` with the reason if the bytes are not a complete image, or if the image has more than ``pixels`` pixels,
    which is checked before decoding.
    """
    values, declared = read_values(data, pixels)
    return to_rgb(values, declared or white)


def read_values(data: bytes, pixels: float = math.inf) -> tuple[np.ndarray, float | None]:
    """Read an image as RGB uint8 [H, W, 3] or, if it is a grey of more than 8 bits, as its values [H, W]; and the white that
    the file declares, or None. Raises like :func:`decode`."""
    if not data:
        raise ValueError("the file is empty")
    limit = min(pixels, Image.MAX_IMAGE_PIXELS or math.inf)
    try:
        with open_bmp(data, limit) or Image.open(io.BytesIO(data)) as image:
            if image.format == "EPS":  # a program, which Pillow would run with Ghostscript
                raise UnidentifiedImageError
            # Pillow itself raises only above twice its limit, and warns below.
            if image.width * image.height > limit:
                raise Image.DecompressionBombError
            bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (16,))[0]
            return to_values(image), None if bits in (8, 16, 32) else 2.0**bits - 1
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"larger than {limit:,} pixels") from None
    except MemoryError:
        raise ValueError("damaged, or larger than the free memory") from None
    except Exception as error:  # Pillow's readers raise nearly any exception on damaged bytes
        reason = shown(str(error)) or type(error).__name__
        if isinstance(error, NotImplementedError) or re.search("unsupported|not supported", reason, re.IGNORECASE):
            raise ValueError(f"a kind of image that Pillow cannot read ({reason}); save it as PNG") from None
        raise ValueError(f"damaged or truncated ({reason})") from None


def to_values(image: Image.Image) -> np.ndarray:
    """Convert an opened image to RGB uint8 [H, W, 3] or, if it is a grey of more than 8 bits, return its values [H, W]."""
    sixteen = image.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile.args) for tile in getattr(image, "tile", ()))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # Pillow does this by itself for TIFF only
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return np.array(image)
    if image.mode == "P" and np.asarray(image).max() >= len(image.getpalette() or ()) // 3:
        raise ValueError("a pixel has a colour that is not in the palette")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    values = np.array(image.convert("RGB"))
    if sixteen and 0 < values.max() < 64:
        raise ValueError("not supported: 16 bits per channel, at most 14 of them used; Pillow keeps the upper 8")
    return values


def to_rgb(values: np.ndarray, white: float | None) -> np.ndarray:
    """Values of :func:`read_values` as RGB uint8 [H, W, 3]; of greys of more than 8 bits 0 stays 0, and ``white`` becomes 255.

    ``white`` is one value for all images of a data set (:func:`measure_white`); 0 says that the data set has no such images;
    None takes the range that the image itself has, for display only. Raises ``ValueError`` if a value is not in the range, or if
    there is none to scale by.
    """
    if values.ndim == 3:
        return values
    top = float(values.max())
    if not (values.min() >= 0 and top < math.inf):
        raise ValueError("grey values below 0 or not finite")
    own = range_of(top)
    if white == 0 and own not in (1, 65535):
        raise ValueError(f"grey values up to {top:g}, and nothing says which value is white; save it with 8 bits")
    white = white or own
    if top > white:
        raise ValueError(f"grey values up to {top:g}, but white is {white:g} in this data set")
    return np.repeat((values * (255 / white) + 0.5).astype(np.uint8)[..., None], 3, axis=2)


def range_of(top: float) -> float:
    """The white that goes with a brightest value: 1 for fractions, else the largest value of as many bits as it needs."""
    return 1.0 if top <= 1 else next((2.0**bits - 1 for bits in GREY_BITS if top < 2**bits), top)


def read_image(path: Path, white: float | None = None) -> np.ndarray:
    """Read an image file as RGB uint8 [H, W, 3]; raises :class:`UserError` naming the file and the reason."""
    try:
        return decode(path.read_bytes(), white=white)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; replace the file or remove it from the list.") from None
