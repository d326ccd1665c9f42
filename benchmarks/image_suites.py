"""How the test images of Pillow are read here, against Pillow's own conversion to RGB.

    pip download --no-deps --no-binary :all: pillow && tar xzf pillow-*.tar.gz
    python -m benchmarks.image_suites pillow-12.3.0/Tests/images --keep image_suites

Every difference has a reason that the file itself shows. The BMP suite (bmp/g good, bmp/q questionable, bmp/b bad) is among these
images; its good files are also compared with their references in bmp/html.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from benchmarks.machine import keep, keep_option, table_head
from lab.data.images import decode

ORIENTATION = 274  # EXIF
NO_IMAGES = {".txt", ".md", ".html", ".py", ".ttf", ".json", ".icc", ".icm", ".xmp", ".lut"}
# References of the BMP suite that are not called like the file.
REFERENCES = {"pal1wb": "pal1", "pal8nonsquare": "pal8nonsquare-e", "rgb16-565pal": "rgb16-565"}
REFERENCES |= dict.fromkeys(("rgb24pal", "rgb32", "rgb32bf"), "rgb24") | {"pal4rle": "pal4"}
REFERENCES |= dict.fromkeys(("pal8-0", "pal8rle", "pal8topdown", "pal8os2", "pal8v4", "pal8v5"), "pal8")


def read(data: bytes) -> tuple[np.ndarray | None, str]:
    """The pixels as our decoder reads them, or None and the reason."""
    try:
        return decode(data), ""
    except ValueError as error:
        return None, str(error)


def read_by_pillow(data: bytes) -> tuple[np.ndarray | None, str]:
    """The pixels as Pillow converts them, with the reason why ours may differ; None where Pillow refuses."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            reason = "other"
            if image.format == "BMP" and image.info.get("compression"):
                reason = "compressed BMP, or channels by masks: decoded here"
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                reason = "more than 8 bits: scaled by its range, where Pillow cuts off at 255"
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                reason = "transparent pixels on black, where Pillow drops the alpha"
            if image.getexif().get(ORIENTATION, 1) != 1:
                reason = "EXIF orientation applied"
            return np.array(image.convert("RGB")), reason
    except Exception:  # Pillow's readers raise nearly anything on damaged bytes
        return None, ""


def compare(folder: Path) -> list[str]:
    """The rows of the table of all images: an outcome, how many, examples."""
    outcomes: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in NO_IMAGES):
        data = path.read_bytes()
        (ours, why), (theirs, reason) = read(data), read_by_pillow(data)
        if ours is None:
            outcome = "refused by both" if theirs is None else f"refused here, read by Pillow: {why}"
        elif theirs is None:
            outcome = "read here, refused by Pillow"
        else:
            outcome = "equal" if np.array_equal(ours, theirs) else f"different: {reason}"
        outcomes[outcome] += 1
        examples.setdefault(outcome, []).append(path.name)
    return [
        f"| {outcome} | {number} | {', '.join(examples[outcome][:4]) if number < 100 else ''} |"
        for outcome, number in outcomes.most_common()
    ]


def bmp_suite(folder: Path) -> list[str]:
    """The rows of the table of the BMP suite: file, outcome, and for good files the largest difference from the reference."""
    rows = []
    for part in ("g", "q", "b"):
        for path in sorted((folder / part).glob("*.bmp")):
            pixels, why = read(path.read_bytes())
            difference = ""
            if part == "g" and pixels is not None:
                with Image.open(folder / "html" / f"{REFERENCES.get(path.stem, path.stem)}.png") as reference:
                    difference = str(np.abs(pixels.astype(int) - np.asarray(reference.convert("RGB"))).max())
            rows.append(
                f"| {part}/{path.name} | {'read' if pixels is not None else f'refused: {why}'} | {difference} |"
            )
    return rows


def main() -> None:
    """Read all images of the folder, and write both tables."""
    parser = argparse.ArgumentParser(description="Pillow's test images as read here, against Pillow.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Tests/images of Pillow's source distribution")
    keep_option(parser, "image_suites")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        f"Pillow {PIL.__version__}; the images of its source distribution, each alone (no range of a data set).",
        "",
    ]
    lines += [*table_head("outcome | images | such as"), *compare(args.folder), ""]
    lines += [
        *table_head("BMP suite | outcome | largest difference from the reference, of 255"),
        *bmp_suite(args.folder / "bmp"),
    ]
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
