"""Reads images: every format that Pillow can open becomes RGB uint8."""

from __future__ import annotations

import io
import logging
import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lab.errors import UserError
from lab.text import shown

SUFFIXES = {".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff"}

# Pillow warns of unusual tags in readable files, once per image. The filter is permanent, because temporary ones
# (warnings.catch_warnings) are not safe in the store's threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode(data: bytes, pixels: float = math.inf) -> np.ndarray:
    """Decode an image file's bytes to RGB uint8 [H, W, 3].

    Grey, 1-bit, palette, alpha, CMYK and 16-bit images are converted. Transparent pixels are composited on black, the
    background of the lab's images. Of an animation only the first frame is read. Raises ``ValueError`` with the reason if the
    bytes are not a complete image, or if the image has more than ``pixels`` pixels, which is checked before decoding.
    """
    if not data:
        raise ValueError("the file is empty")
    limit = min(pixels, Image.MAX_IMAGE_PIXELS or math.inf)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "EPS":  # a program, which Pillow would run with Ghostscript
                raise UnidentifiedImageError
            # Pillow itself raises only above twice its limit, and warns below.
            if image.width * image.height > limit:
                raise Image.DecompressionBombError
            return to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"larger than {limit:,} pixels") from None
    except MemoryError:
        raise ValueError("damaged, or larger than the free memory") from None
    except Exception as error:  # Pillow's readers raise nearly any exception on damaged bytes
        raise ValueError(f"damaged or truncated ({shown(str(error)) or type(error).__name__})") from None


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert an opened Pillow image to RGB uint8 [H, W, 3]."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        # 32-bit integers are read as 16-bit greys, which some files store so; floats as 0…1 if no value exceeds 1, else 0…255.
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        values = values / 256 if image.mode == "I" else values * (255 if values.max() <= 1 else 1)
        return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB uint8 [H, W, 3]; raises :class:`UserError` naming the file and the reason."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; replace the file or remove it from the list.") from None
