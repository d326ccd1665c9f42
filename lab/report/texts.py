"""The report's texts in each language, from ``texts_en.toml`` and ``texts_zh.toml``."""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")


class Filler(string.Formatter):
    """Fills ``{images:image|images}`` with ``1 image`` or ``1,200 images``, and other placeholders like ``str.format``."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """One placeholder's text."""
        if "|" not in format_spec:
            return str(super().format_field(value, format_spec))
        one, many = format_spec.split("|")
        return f"{value:,} {one if value == 1 else many}"


class Texts:
    """The texts of one language: ``t("size", width=640)`` fills the text with this key.

    Texts of paragraphs mark ```code``` and ``**emphasis**``; :meth:`rich` separates these before it fills them, so that a value
    with such characters stays as it is.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        path = Path(__file__).with_name(f"texts_{language}.toml")
        # A line break between two Chinese characters is no space.
        text = re.sub(r"(?<=[\u3000-\uffef])\n(?=[\u3000-\uffef])", "", path.read_text(encoding="utf-8"))
        self.table: dict[str, Any] = tomllib.loads(text)

    def __call__(self, key: str, **values: object) -> str:
        return self.fill(self.table[key], values)

    def rich(self, key: str, **values: object) -> list[tuple[str, str]]:
        """The parts of a text, each with its kind: plain, code or strong."""
        kinds = {"`": "code", "*": "strong"}
        parts = [part for part in re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", self.table[key]) if part]
        return [(kinds.get(part[0], "plain"), self.fill(part.strip("`*"), values)) for part in parts]

    def words(self, key: str) -> list[str]:
        """The texts of a list, such as the head of a table."""
        return list(self.table[key])

    def listed(self, names: Sequence[str]) -> str:
        """``A``, ``A and B``, ``A, B and C``."""
        return self("and").join(filter(None, [self("comma").join(names[:-1]), *names[-1:]]))

    @staticmethod
    def fill(text: str, values: dict[str, object]) -> str:
        """The text on one line with its placeholders filled."""
        return Filler().vformat(text.replace("\n", " "), (), values)
