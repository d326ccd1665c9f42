"""What is measured on an image without a network: size, brightness, sharpness, stain, and the signs of its perceptual hash.

All are computed in one pass over the files, and kept as :mod:`studies.features` keeps features.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn
from skimage.filters import threshold_otsu

from lab.data.images import decode
from lab.data.lists import ImageList
from lab.data.preprocessing import cell_mask, sample_images
from studies.features import Source, image_rows

# Name: title with unit. Brightness, channels and contrast are of the whole image, grey levels 0…255.
MEASURES = {
    "width": "width, px",
    "height": "height, px",
    "brightness": "brightness",
    "red": "red",
    "green": "green",
    "blue": "blue",
    "contrast": "contrast (standard deviation)",
    "sharpness": "sharpness (variance of the Laplacian)",
    "noise": "noise (standard deviation)",
    "hue": "hue of stained pixels, degrees from red",
    "stain": "stain (optical density of stained pixels)",
    "share": "share of stained pixels, %",
}
SIDE, LOW = 32, 12  # hash: px of the image, and frequencies along a side
SIGNS = LOW * LOW - 1  # the mean of the image is left out


def measurements_source(train: ImageList) -> Source:
    """The measurements as features: ``MEASURES``, then the ``SIGNS`` coefficients of the hash."""
    white = sample_images(train, 20)[1]  # 0 unless the images are greys of more than 8 bits
    code = hashlib.sha256(
        "".join(inspect.getsource(one) for one in (measure, stained, coefficients)).encode()
    ).hexdigest()
    rows = partial(image_rows, partial(measure, white=white), "measurements")
    settings = {"white": white, "side": SIDE, "low": LOW}
    return Source("measurements", "Measurements", 0, len(MEASURES) + SIGNS, 0, None, settings, code, rows)


def measure(path: Path, white: float) -> np.ndarray:
    """The measurements of an image and the coefficients of its hash, float32. Raises ``OSError`` or ``ValueError``."""
    image = decode(path.read_bytes(), white=white)
    height, width = image.shape[:2]
    pixels = image.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    red, green, blue = pixels.mean(axis=(0, 1))
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    # Immerkær 1996, Fast Noise Variance Estimation: the second difference along both axes removes whatever is linear.
    rough = np.abs(np.diff(np.diff(grey, 2, axis=0), 2, axis=1))
    mask = stained(image)
    r, g, b = pixels[mask].mean(axis=0) if mask.any() else (red, green, blue)
    # From -240 to 120 degrees, so that the circle is cut at green, which no stain has; purple is at -60.
    hue = (np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)) + 240) % 360 - 240
    # Beer and Lambert's law: absorbance adds up over the stain, -log10 of the transmitted share of the light.
    density = -np.log10((pixels[mask] + 1) / 256).mean() if mask.any() else 0.0
    values = [width, height, grey.mean(), red, green, blue, grey.std()]
    values += [laplacian.var() if laplacian.size else 0.0, np.sqrt(np.pi / 2) / 6 * rough.mean() if rough.size else 0.0]
    values += [hue, density, 100 * mask.mean()]
    return np.concatenate([values, coefficients(image)]).astype(np.float32)


def stained(image: np.ndarray) -> np.ndarray:
    """The stained pixels, bool [H, W]: those of a cell on black, else those with less green than Otsu's threshold, because nuclei
    absorb green most."""
    mask = cell_mask(image)
    if mask is not None:
        return mask
    green = image[..., 1]
    if green.min() == green.max():
        return np.zeros(green.shape, bool)
    return green <= threshold_otsu(hist=(np.bincount(green.ravel(), minlength=256), np.arange(256)))


def coefficients(image: np.ndarray) -> np.ndarray:
    """The lowest frequencies of an image's cosine transform without the mean, [SIGNS], row by row. Their signs are its hash."""
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    low: np.ndarray = dctn(np.asarray(grey, np.float32), norm="ortho")[:LOW, :LOW]
    return low.ravel()[1:]
