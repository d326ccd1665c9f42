"""How many images are recognised as unlike the training images, and how many cells of valid are refused by mistake.

    mkdir photos && cd photos && apt-get download gnome-backgrounds mate-backgrounds plasma-workspace-wallpapers lxqt-themes
    for package in *.deb; do dpkg -x $package .; done; cd -
    python -m benchmarks.unlike --data ../shared/data/pbc8 ../shared/data/all4 --photos photos

The committed table also has the pictures of desktop-base, python3-skimage and four small packages. Photographs are every PNG,
JPEG and WebP file of more than 50 kB below ``--photos``, one of those that look the same: the middle, and four random parts of
it. The other images are drawn here: plain ones with and without a gradient or a little noise, noise of four kinds, lines of
text. Cells are those of the other data sets' valid lists. Nothing here was used to choose the statistics' limit, which comes
from the data set's own valid list, as at the end of a training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.machine import describe, keep, keep_option, table_head
from lab.data.augmentation import network_input
from lab.data.batches import EVALUATION_BATCH, STORES, Batches
from lab.data.images import read_image
from lab.data.lists import read_data_set, read_lists
from lab.data.preprocessing import Preprocessing, measured_preprocessing
from lab.data.store import open_stores
from lab.evaluation.unlike import distances, fit_typical, statistics

SIDE = 360  # px of the images that are drawn
WORDS = (__doc__ or "").split()
Kind = Callable[[np.random.Generator], Iterator[np.ndarray]]


def plain(random: np.random.Generator) -> Iterator[np.ndarray]:
    """White, black, random colours, gradients, and all of them with noise of up to two levels."""
    slope = np.linspace(0, 1, SIDE)[:, None, None] * np.ones((1, SIDE, 1))
    for first in (np.full(3, 255), np.zeros(3), *random.integers(0, 256, (98, 3))):
        for second in (first, random.integers(0, 256, 3)):
            image = first * (1 - slope) + second * slope
            yield image.astype(np.uint8)
            yield (image + random.integers(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


def noise(random: np.random.Generator) -> Iterator[np.ndarray]:
    """Uniform and normal noise, grey and in colour, with a grain of 1 to 45 px."""
    for number in range(400):
        side, channels = [SIDE, 90, 30, 8][random.integers(4)], 1 + 2 * (number % 2)
        values = random.integers(0, 256, (side, side, channels)).astype(float)
        if number % 4 > 1:
            values = random.normal(random.uniform(60, 200, channels), random.uniform(5, 60), (side, side, channels))
        image = Image.fromarray(np.broadcast_to(values.clip(0, 255), (side, side, 3)).astype(np.uint8))
        yield np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def text(random: np.random.Generator) -> Iterator[np.ndarray]:
    """Lines of text of 10 to 60 px, half of them on white, two thirds of them black."""
    fonts = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuS*.ttf"))
    for number in range(400):
        paper, ink = (tuple(map(int, random.integers(0, 256, 3))) for _ in range(2))
        image = Image.new("RGB", (SIDE, SIDE), paper if number % 2 else "white")
        size = int(random.integers(10, 60))
        font = ImageFont.truetype(str(random.choice(np.array(fonts))), size)
        for y in range(0, SIDE, round(1.2 * size)):
            line = " ".join(random.choice(WORDS, 12))
            ImageDraw.Draw(image).text((5, y), line, fill="black" if number % 3 else ink, font=font)
        yield np.array(image)


def photographs(folder: Path) -> Kind:
    """The middle and four random parts of each photograph, scaled to ``SIDE``."""

    def parts(random: np.random.Generator) -> Iterator[np.ndarray]:
        seen = set()
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp") or path.stat().st_size < 50_000:
                continue
            try:
                image = Image.fromarray(read_image(path))
            except (OSError, ValueError):
                continue
            look = (np.array(image.resize((16, 16))) // 32).tobytes()
            if look in seen:
                continue
            seen.add(look)
            width, height = image.size
            for number in range(5):
                side = min(image.size) if number == 0 else int(min(image.size) * random.uniform(0.15, 0.9))
                x, y = (0.5, 0.5) if number == 0 else random.uniform(0, 1, 2)
                left, top = int(x * (width - side)), int(y * (height - side))
                box = left, top, left + side, top + side
                yield np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))

    return parts


def found(images: Iterator[np.ndarray], size: int, preprocessing: Preprocessing) -> np.ndarray:
    """The statistics of raw images, float64 [N, 27]."""
    rows = []
    while part := [preprocessing.crop(image) for image in islice(images, EVALUATION_BATCH)]:
        rows.append(statistics(network_input(torch.from_numpy(np.stack(part)), preprocessing)))
    return torch.cat(rows).double().numpy()


def main() -> None:
    """Measure each data set, and write one table."""
    parser = argparse.ArgumentParser(description="How many images are recognised as unlike the training images.")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128])
    keep_option(parser, "unlike")
    args = parser.parse_args()
    data = {Path(name).name: read_data_set(name) for name in args.data}
    lists = {name: read_lists(one, ("train", "valid")) for name, one in data.items()}
    kinds: dict[str, Kind] = {"plain": plain, "noise": noise, "text": text, "photographs": photographs(args.photos)}
    rows = []
    for name, own in lists.items():
        for size in args.sizes:
            preprocessing = measured_preprocessing(own["train"], size)
            stores = open_stores(own, preprocessing, STORES / name)
            train, valid = (
                Batches(stores[one], own[one].labels, preprocessing, EVALUATION_BATCH, torch.device("cpu"))
                for one in ("train", "valid")
            )
            typical, limit = fit_typical(train, valid, size)
            beyond = torch.cat([statistics(images) for images, _, _ in valid]).double().numpy()
            cells = [f"{100 * (distances(beyond, typical) > limit).mean():.2f} % of {len(beyond):,}"]
            groups = {kind: draw(np.random.default_rng(0)) for kind, draw in kinds.items()}
            others = [path for other, both in lists.items() if other != name for path in both["valid"].paths[:500]]
            if others:
                groups["cells"] = map(read_image, others)
            for images in groups.values():
                values = found(iter(images), size, preprocessing)
                cells.append(f"{100 * (distances(values, typical) > limit).mean():.2f} % of {len(values):,}")
            cells += ["–"] * (len(kinds) + 2 - len(cells))
            rows.append(f"| {name} | {size} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    head = table_head("data | px | own valid images refused | plain | noise | text | photographs | others' cells")
    title = "Images that are called unlike the training images."
    keep(args.keep, [describe(), title, "", *head, *rows], quiet=True)


if __name__ == "__main__":
    main()
