"""The page's texts in each language, from ``texts_en.toml`` and ``texts_zh.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

LANGUAGES = {"en": "EN", "zh": "中文"}  # and their names in the switch


class Texts:
    """The texts of one language: ``say("window", width=640)`` fills a text's placeholders.

    ``browser`` has the texts that page.js fills. Values that go into HTML are escaped by the caller.
    """

    def __init__(self, language: str) -> None:
        path = Path(__file__).with_name(f"texts_{language}.toml")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        self.language, self.browser, self.reasons = language, tables["browser"], tables["reasons"]
        self.table: dict[str, str] = tables["page"]

    def __call__(self, key: str, **values: object) -> str:
        return self.table[key].format(**values)

    def images(self, count: int) -> str:
        """A number of images."""
        return self("image" if count == 1 else "images", count=count)

    def listed(self, names: Sequence[str]) -> str:
        """``A``, ``A and B``, ``A, B and C``."""
        return self("and").join(filter(None, [self("comma").join(names[:-1]), names[-1]]))

    def reason(self, text: str) -> str:
        """A reason that other modules give, in English, why an image cannot be read; an unknown one is not translated."""
        return next((own for start, own in self.reasons.items() if text.startswith(start)), text)


TEXTS = {language: Texts(language) for language in LANGUAGES}
