"""The page's answers: an image's predictions as HTML, and pages of the gallery."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lab.data.images import decode
from lab.hardware import Hardware
from lab.page.gallery import Valid
from lab.page.html import answer, grid, notice, probability
from lab.page.networks import Depth, look
from lab.text import shown
from models.catalog import find

BYTES = 16 * 2**20  # of an upload; the lab's images have 0.6 MB
PIXELS = 25_000_000  # of an upload; the lab's images have 0.2 million
PAGE = 24  # images of the gallery at once
EXAMPLES = 16

Chosen = int | tuple[str, bytes] | None  # an image of the valid list by its index, or an upload's name and bytes


@dataclass(frozen=True)
class Exhibit:
    """All that the page shows. ``why`` is the reason where there is no valid list."""

    data: str
    classes: list[str]
    depths: list[Depth]
    hardware: Hardware
    valid: Valid | None
    why: str = ""
    # All that the networks compute runs in one thread: requests wait for each other, and torch keeps one team of threads.
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "networks"))

    def read(self, chosen: int | tuple[str, bytes]) -> tuple[str, bytes, int | None]:
        """Name, bytes and, where it is known, the class of an image. Raises ``OSError``."""
        if not isinstance(chosen, int):
            return *chosen, None
        assert self.valid
        images = self.valid.images
        return images.ids[chosen], images.paths[chosen].read_bytes(), int(images.labels[chosen])

    def answer(self, chosen: Chosen, explained: int = -1, stage: str = "") -> str:
        """The answer of all depths to an image as HTML, or a sentence that says why there is none. ``explained`` is the label
        whose heat map is asked for, -1 the one that each depth answers; ``stage`` empty is the last that still tells where."""
        if chosen is None:
            return notice("Drop an image of a cell above, and every depth will answer.", "hint")
        began = time.perf_counter()
        try:
            name, data, truth = self.read(chosen)
            if len(data) > BYTES:
                raise ValueError(f"larger than {BYTES / 2**20:.0f} MiB")
            image = decode(data, PIXELS)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            name = chosen[0] if isinstance(chosen, tuple) else "This image of the list"
            return notice(f"{shown(name, 80)}: {reason}. Try another image: BMP, PNG, JPEG or TIFF.")
        label = explained if 0 <= explained < len(self.classes) else None
        answers = [
            self.worker.submit(look, depth, image, self.hardware, label, stage).result() for depth in self.depths
        ]
        return answer(shown(name, 80), image, answers, self.classes, truth, time.perf_counter() - began)

    def examples(self) -> list[int]:
        """Images to begin with: one of each class, then some on which the depths differ, as many as there are places."""
        if not self.valid:
            return []
        labels = self.valid.images.labels
        found = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)][:EXAMPLES]
        differ = self.valid.choose(self.depths[-1].model, result="differ")
        return found + [int(index) for index in differ if index not in found][: EXAMPLES - len(found)]

    def thumbnails(self, indices: Sequence[int], model: str = "", title: str = "") -> str:
        """Windows of the valid list to choose from, with their class and, of a ``model``, whether it was right and how sure."""
        assert self.valid
        pictures = []
        for index in indices:
            label = int(self.valid.images.labels[index])
            caption, kind = self.classes[label], ""
            if model:
                row = self.valid.probabilities[model][index]
                predicted = int(row.argmax())
                kind, mark = ("right", "✓") if predicted == label else ("wrong", "✗")
                said = caption if kind == "right" else f"{self.classes[predicted]}, is {caption}"
                caption = f"{mark}\N{NO-BREAK SPACE}{said} · {probability(float(row.max()), 0)}"
            pictures.append((self.valid.windows.images[self.valid.windows.rows[index]], caption, kind))
        return grid(pictures, title)

    def gallery(self, indices: np.ndarray, number: int, model: str) -> tuple[str, list[int], int, str]:
        """Page ``number`` of the images left by a filter, or the nearest there is: thumbnails, their indices, the number, and
        a line that counts."""
        number = min(max(number, 0), max(len(indices) - 1, 0) // PAGE)
        part = [int(index) for index in indices[number * PAGE : (number + 1) * PAGE]]
        if not part:
            return "", [], 0, "No image fits this choice; widen it."
        first, total = number * PAGE + 1, len(self.valid.images) if self.valid else 0
        counts = f"{first:,}–{first + len(part) - 1:,} of {len(indices):,} images"
        counts += f" that fit, of {total:,}" if len(indices) < total else ""
        return self.thumbnails(part, model), part, number, counts

    def pairs(self, model: str) -> list[tuple[str, str]]:
        """The pairs of classes that a model confuses most, in words, each with its value ``true>predicted``."""
        assert self.valid
        return [
            (f"{self.classes[true]} taken for {self.classes[predicted]} ({count})", f"{true}>{predicted}")
            for true, predicted, count in self.valid.confused(model)
        ]

    def names(self) -> list[tuple[str, str]]:
        """The depths as they are written, and as they are known."""
        return [(find(depth.model).title, depth.model) for depth in self.depths]


def read_upload(path: str) -> tuple[str, bytes]:
    """Name and bytes of an uploaded file, no more of them than show that they are too many."""
    with Path(path).open("rb") as file:
        return Path(path).name, file.read(BYTES + 1)
