"""What the page shows on request: predictions for an image, and pages of the gallery."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lab.data.images import decode
from lab.evaluation.metrics import COLUMNS
from lab.hardware import Hardware
from lab.page.gallery import Valid
from lab.page.html import Answer, Row, answer, attributions, grid, notice, probability, table
from lab.page.networks import TrainedModel, attribute_image, is_unlike, predict_and_explain, predict_image
from lab.page.texts import TEXTS, Texts
from lab.text import shown

MAX_BYTES = 16 * 2**20  # of an upload; the lab's images have 0.6 MB
MAX_UPLOADS = 100  # images in one request
MAX_PIXELS = 25_000_000  # of an upload; the lab's images have 0.2 million
PAGE_SIZE = 24  # images on a page of the gallery
EXAMPLES = 16


def no_results() -> pd.DataFrame:
    """A table of metrics without rows."""
    return pd.DataFrame(columns=COLUMNS)


Chosen = int | tuple[str, bytes] | None  # index of a valid image, or an upload's name and bytes


@dataclass(frozen=True)
class Content:
    """All that the page shows. Without a valid list, ``why`` is the reason."""

    data: str
    classes: list[str]
    models: list[TrainedModel]
    hardware: Hardware
    valid: Valid | None
    why: str = ""
    results: pd.DataFrame = field(default_factory=no_results)
    systems: pd.DataFrame | None = None
    say: Texts = TEXTS["en"]
    # Networks run in one thread: concurrent requests wait for each other, and torch keeps a single thread pool.
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "networks"))

    def read(self, chosen: int | tuple[str, bytes]) -> tuple[str, bytes, int | None]:
        """Name, bytes and, if known, true class of an image. Raises ``OSError``."""
        if not isinstance(chosen, int):
            return *chosen, None
        assert self.valid
        images = self.valid.images
        return images.ids[chosen], images.paths[chosen].read_bytes(), int(images.labels[chosen])

    def decode(self, data: bytes, listed: bool = False) -> np.ndarray:
        """The pixels, RGB uint8 [H, W, 3]. Raises ``ValueError`` with the reason why nothing can be predicted. An image of the
        valid list (``listed``) is known to be of the data set, so it may be unlike the training images."""
        if len(data) > MAX_BYTES:
            raise ValueError(self.say("too_large", limit=MAX_BYTES // 2**20))
        preprocessing = self.models[0].preprocessing
        try:
            image = decode(data, MAX_PIXELS, preprocessing.white)
        except ValueError as error:
            raise ValueError(self.say.reason(str(error))) from None
        if preprocessing.shows_nothing(image):
            raise ValueError(self.say("no_cell"))
        if not listed and is_unlike(self.models, image):
            raise ValueError(self.say("unlike"))
        return image

    def answer(self, chosen: Chosen, label: int = -1, stage: str = "") -> str:
        """Every model's prediction for an image as HTML, or the reason why there is none; arguments as in ``predict``."""
        return self.show(None if chosen is None else self.predict(chosen, label, stage))

    def show(self, one: Answer | None) -> str:
        """An answer as HTML."""
        if one is None:
            return notice(self.say("nothing_chosen"), "hint")
        return answer(self.say, one, self.classes)

    def predict(self, chosen: int | tuple[str, bytes], label: int = -1, stage: str = "") -> Answer:
        """Every model's prediction for an image.

        The heat maps explain class ``label`` (-1: each model's predicted class) at ``stage`` (empty: each model's default).
        """
        start = time.perf_counter()
        try:
            name, data, truth = self.read(chosen)
            image = self.decode(data, isinstance(chosen, int))
        except (OSError, ValueError) as error:
            name, reason = self.refusal(chosen, error)
            return Answer(name, reason=reason)
        explained = label if 0 <= label < len(self.classes) else None
        predictions = [
            self.worker.submit(predict_and_explain, model, image, self.hardware, explained, stage).result()
            for model in self.models
        ]
        return Answer(shown(name, 80), image, predictions, truth, time.perf_counter() - start)

    def refusal(self, chosen: int | tuple[str, bytes], error: OSError | ValueError) -> tuple[str, str]:
        """The name of an image that cannot be predicted, and the reason."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        name = chosen[0] if isinstance(chosen, tuple) else self.say("this_image")
        return shown(name, 80), self.say.reason(reason)

    def attributions(self, chosen: Chosen, model: str, label: int = -1) -> str:
        """Which pixels speak for class ``label`` (-1: the predicted class) of an image, by one model, as HTML."""
        if chosen is None:
            return notice(self.say("nothing_chosen"), "hint")
        try:
            name, data, _ = self.read(chosen)
            image = self.decode(data, isinstance(chosen, int))
        except (OSError, ValueError) as error:
            name, reason = self.refusal(chosen, error)
            return notice(self.say("refused", name=name, reason=reason))
        (trained,) = (one for one in self.models if one.name == model)
        explained = label if 0 <= label < len(self.classes) else None
        found = self.worker.submit(attribute_image, trained, image, self.hardware, explained).result()
        return attributions(self.say, shown(name, 80), trained, self.classes, *found)

    def table(self, paths: Sequence[str]) -> str:
        """Every model's prediction for several uploads: a table and a CSV, without heat maps."""
        rows: list[Row] = []
        for path in paths:
            name, data = read_upload(path)
            try:
                image = self.decode(data)
            except ValueError as error:
                rows.append((shown(name, 80), None, [], str(error)))
                continue
            calls = [self.worker.submit(predict_image, model, image, self.hardware) for model in self.models]
            rows.append((shown(name, 80), image, [call.result() for call in calls], ""))
        return table(self.say, rows, self.models, self.classes)

    def examples(self) -> list[int]:
        """Indices of up to ``EXAMPLES`` valid images: one of each class, then images that the models predict differently."""
        if not self.valid:
            return []
        indices = [int(index) for index in np.unique(self.valid.images.labels, return_index=True)[1]]
        differ = self.valid.choose(self.models[-1].name, result="differ")
        return [*dict.fromkeys(indices + differ.tolist())][:EXAMPLES]

    def thumbnails(self, indices: Sequence[int], model: str = "", title: str = "") -> str:
        """Windows of valid images to choose from, with their class and, for a ``model``, its prediction and confidence."""
        assert self.valid
        pictures = []
        for index in indices:
            label = int(self.valid.images.labels[index])
            caption, kind = self.classes[label], ""
            if model:
                row = self.valid.probabilities[model][index]
                predicted = int(row.argmax())
                kind, mark = ("correct", "✓") if predicted == label else ("wrong", "✗")
                text = caption
                if predicted != label:
                    text = self.say("caption_wrong", predicted=self.classes[predicted], true=caption)
                caption = f"{mark}\N{NO-BREAK SPACE}{text} · {probability(float(row.max()), 0)}"
            pictures.append((index, self.valid.windows.images[self.valid.windows.rows[index]], caption, kind))
        return grid(pictures, title)

    def gallery(self, indices: np.ndarray, number: int, model: str) -> tuple[str, int, str]:
        """Page ``number`` of the filtered images, or the nearest page: thumbnails, its number, and a count."""
        number = min(max(number, 0), max(len(indices) - 1, 0) // PAGE_SIZE)
        part = [int(index) for index in indices[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]]
        if not part:
            return "", 0, self.say("none")
        first, total = number * PAGE_SIZE + 1, len(self.valid.images) if self.valid else 0
        key = "count_filtered" if len(indices) < total else "count"
        last, images = first + len(part) - 1, self.say.images(len(indices))
        return self.thumbnails(part, model), number, self.say(key, first=first, last=last, images=images, total=total)

    def pairs(self, model: str) -> list[tuple[str, str]]:
        """The pairs of classes that a model confuses most: a text and the value ``true>predicted`` for each."""
        assert self.valid
        return [
            (
                self.say("pair_of", true=self.classes[true], predicted=self.classes[predicted], count=count),
                f"{true}>{predicted}",
            )
            for true, predicted, count in self.valid.confused(model)
        ]

    def names(self) -> list[tuple[str, str]]:
        """Title and name of each model."""
        return [(model.title, model.name) for model in self.models]


def read_upload(path: str) -> tuple[str, bytes]:
    """Name and bytes of an uploaded file; at most one byte more than ``MAX_BYTES`` is read."""
    with Path(path).open("rb") as file:
        return Path(path).name, file.read(MAX_BYTES + 1)
