"""Parts of the report: numbered pictures, galleries and tables with captions, and marked gaps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from lab.report.runs import Gaps

MAX_HEIGHT = 88  # of a picture, in % of the text width; a page has 150
FLOATS = 8  # a table of few rows with more lines than this, and every picture, may move, so that text fills the page before it

Cell = str | None  # None is shown as a marked gap


@dataclass
class Part:
    """An element with a caption. Templates select by ``kind``; figures and tables are numbered separately."""

    kind: str
    caption: str = ""
    number: int = 0


@dataclass
class Picture(Part):
    """An image file; ``alt`` describes it, ``width`` is in % of the text width."""

    data: bytes = b""
    suffix: str = "png"
    alt: str = ""
    width: float = 100

    @property
    def file(self) -> str:
        """The file name for Typst."""
        return f"figure{self.number}.{self.suffix}"

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.data, self.suffix)


@dataclass
class Card:
    """A small image (None if not found) with lines of text below it; the first line is emphasised."""

    data: bytes | None
    lines: list[str]

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return data_uri(self.data or b"", "png")


@dataclass
class Gallery(Part):
    """Small images in rows."""

    cards: list[Card] = field(default_factory=list)


@dataclass
class Table(Part):
    """``align`` has a letter for each column: l, c or r. The last ``totals`` rows are emphasised."""

    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    align: str = ""
    totals: int = 0

    @property
    def wide(self) -> bool:
        """Whether it needs a smaller font."""
        return len(self.head) > 7

    @property
    def long(self) -> bool:
        """Whether it may be split over pages, with a repeated head."""
        return len(self.rows) > 9

    @property
    def floats(self) -> bool:
        """Whether the PDF may move it to the top or bottom of a page."""
        lines = sum(max((cell or "").count("\n") + 1 for cell in row) for row in self.rows)
        return lines > FLOATS and not self.long


def data_uri(data: bytes, suffix: str) -> str:
    """An image file as a data URI."""
    kind = "svg+xml" if suffix == "svg" else suffix
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Parts:
    """Creates parts, numbered in the order of creation, which must be that of the report."""

    def __init__(self, gaps: Gaps) -> None:
        self.gaps = gaps
        self.counts = {"figure": 0, "table": 0}
        self.made: list[Part] = []

    def add(self, part: Part) -> Part:
        """Number a part and keep it for the PDF."""
        kind = "table" if part.kind == "table" else "figure"
        self.counts[kind] += 1
        part.number = self.counts[kind]
        self.made.append(part)
        return part

    def gap(self, text: str) -> Part:
        """A marked gap; the text states what is missing and what to do."""
        return Part("gap", self.gaps.note(text))

    def picture(self, data: bytes, caption: str, alt: str, width: float = 100, suffix: str = "png") -> Part:
        """A picture, narrower than ``width`` if it would not fit on a page."""
        if suffix == "png":
            with Image.open(io.BytesIO(data)) as image:
                width = round(min(width, MAX_HEIGHT * image.width / image.height), 1)
        return self.add(Picture("picture", caption, 0, data, suffix, alt, width))

    def gallery(self, cards: list[Card], caption: str) -> Part:
        """Small images in rows."""
        return self.add(Gallery("gallery", caption, cards=cards))

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str, align: str = "", totals: int = 0
    ) -> Part:
        """A table; by default the first column is aligned left and the others right."""
        align = align or "l" + "r" * (len(head) - 1)
        return self.add(Table("table", caption, 0, list(head), list(map(list, rows)), align, totals))
