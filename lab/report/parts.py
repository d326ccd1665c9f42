"""Parts of a page: numbered pictures, tables and galleries with captions, and marked gaps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from lab.report.runs import Gaps

HIGHEST = 125  # a picture's height in % of the text's width; a page has 150, of which captions and a heading take some

Cell = str | None  # None: not there, shown as a marked gap


@dataclass
class Part:
    """Something with a caption; ``kind`` decides how a template shows it, ``number`` counts figures and tables apart."""

    kind: str
    caption: str = ""
    number: int = 0


@dataclass
class Picture(Part):
    """An image file's bytes, with words for those who do not see it; ``width`` in % of the text's."""

    data: bytes = b""
    suffix: str = "png"
    alt: str = ""
    width: float = 100

    @property
    def file(self) -> str:
        """A file name of its own."""
        return f"figure{self.number}.{self.suffix}"

    @property
    def uri(self) -> str:
        """The picture itself as an address, so that a page needs no other file."""
        return data_uri(self.data, self.suffix)


@dataclass
class Card:
    """A small image (None: not at hand) with lines of text below it, the first one set apart."""

    data: bytes | None
    lines: list[str]
    file: str

    @property
    def uri(self) -> str:
        return data_uri(self.data or b"", "png")


@dataclass
class Gallery(Part):
    """Small images in rows."""

    cards: list[Card] = field(default_factory=list)


@dataclass
class Table(Part):
    """``align`` has a letter for each column: l, c or r. The last ``totals`` rows are set apart."""

    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    align: str = ""
    totals: int = 0

    @property
    def wide(self) -> bool:
        """Whether it needs small print."""
        return len(self.head) > 7

    @property
    def long(self) -> bool:
        """Whether it may run over the end of a page; its head is then repeated."""
        return len(self.rows) > 24


def data_uri(data: bytes, suffix: str) -> str:
    """A file as an address that holds it."""
    kind = "svg+xml" if suffix == "svg" else suffix
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Parts:
    """Makes parts, numbered in the order in which the page shows them, and notes what is missing."""

    def __init__(self, gaps: Gaps) -> None:
        self.gaps = gaps
        self.counts = {"figure": 0, "table": 0}
        self.made: list[Part] = []

    def keep(self, part: Part) -> Part:
        self.made.append(part)
        return part

    def count(self, kind: str) -> int:
        self.counts[kind] += 1
        return self.counts[kind]

    def gap(self, text: str) -> Part:
        """A marked gap that says what is missing and what to do."""
        return Part("gap", self.gaps.note(text))

    def picture(self, data: bytes, caption: str, alt: str, width: float = 100, suffix: str = "png") -> Part:
        """Narrower than asked for where it would otherwise be too high for a page."""
        if suffix == "png":
            with Image.open(io.BytesIO(data)) as image:
                width = round(min(width, HIGHEST * image.width / image.height), 1)
        return self.keep(Picture("picture", caption, self.count("figure"), data, suffix, alt, width))

    def gallery(self, cards: list[Card], caption: str) -> Part:
        number = self.count("figure")
        for place, card in enumerate(cards):
            card.file = f"figure{number}_{place}.png"
        return self.keep(Gallery("gallery", caption, number, cards))

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str, align: str = "", totals: int = 0
    ) -> Part:
        align = align or "l" + "r" * (len(head) - 1)
        return self.keep(Table("table", caption, self.count("table"), list(head), list(map(list, rows)), align, totals))
