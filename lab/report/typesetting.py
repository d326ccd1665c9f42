"""Renders the report as HTML and, by Typst, as PDF: one text (templates/report.j2) with two sets of macros.

Typst (Apache 2.0) is a single wheel: it embeds its fonts, keeps headings with their text, repeats table heads, tags the PDF for
screen readers, and is deterministic. Chinese characters are from Noto Serif TC (SIL OFL), a wheel too.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fontTools import subset  # type: ignore[import-untyped]
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ft2font import FT2Font

from lab.errors import UserError
from lab.figures.style import chinese_font
from lab.files import replacing, write_whole
from lab.report.parts import Gallery, Part, Picture

TEMPLATES = Path(__file__).resolve().parent / "templates"
INSTALL = "pip install typst pylopdf-fonts-zh-tw"


def check_libraries() -> None:
    """Raise :class:`UserError` if a package for the PDF is missing."""
    try:
        import pylopdf_fonts_zh_tw  # noqa: F401
        import typst  # noqa: F401
    except ImportError as error:
        raise UserError(f"report.py needs the package {error.name}: {INSTALL}") from None


def literal(text: object) -> Markup:
    """Any text as a string literal of Typst."""
    return Markup('"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"')


def shown_in_typst(value: object) -> object:
    """A value inside Typst's markup: a string literal; the semicolon ends the code, so that markup follows."""
    return value if isinstance(value, Markup) else Markup(f"#{literal(value)};")


@functools.cache
def environment(typst: bool) -> Environment:
    """The Jinja environment of one form. Values are escaped, templates are not."""
    options: dict[str, Any] = {"finalize": shown_in_typst} if typst else {}
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    jinja.filters |= {"literal": literal, "code": lambda value: Markup(str(value))}
    return jinja


def terminal(title: str, lines: list[tuple[str, str]]) -> bytes:
    """An SVG picture of a terminal with these lines, each a text and its style."""
    return environment(False).get_template("terminal.svg.j2").render(title=title, lines=lines).encode()


def page(typst: bool, values: dict[str, Any]) -> str:
    """The source of one form."""
    jinja = environment(typst)
    macros = jinja.get_template("typst.j2" if typst else "html.j2").module
    body = Markup(jinja.get_template("report.j2").render(**values, m=macros))
    whole = jinja.get_template("page.typ.j2" if typst else "page.html.j2")
    return whole.render(**values, body=body, contents=[] if typst else contents(body))


def contents(body: str) -> list[tuple[str, Markup, list[tuple[str, Markup]]]]:
    """The sections of an HTML page: the place and the title of each, and those of its subsections."""
    sections: list[tuple[str, Markup, list[tuple[str, Markup]]]] = []
    for level, place, title in re.findall(r'<h([23]) id="(\w+)">(.*?)</h', body):
        if level == "2":
            sections.append((place, Markup(title), []))
        else:
            sections[-1][2].append((place, Markup(title)))
    return sections


def write_html(path: Path, values: dict[str, Any]) -> None:
    """Write the HTML page. Images and the glyphs of its Chinese characters are embedded."""
    characters = "".join(sorted(beyond_latin(page(False, values | {"font": ""}))))
    write_whole(path, page(False, values | {"font": font_uri(characters) if characters else ""}))


def font_uri(characters: str) -> str:
    """A subset of Noto Serif TC with these characters, as a data URI."""
    options = subset.Options(flavor="woff")
    font = subset.load_font(str(chinese_font()), options)
    part = subset.Subsetter(options)
    part.populate(text=characters)
    part.subset(font)
    buffer = io.BytesIO()
    subset.save_font(font, buffer, options)
    return f"data:font/woff;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_pdf(path: Path, values: dict[str, Any], parts: list[Part], day: str | None) -> None:
    """Write the PDF with the date ``day`` (YYYY-MM-DD) or without one. Raises UserError if Typst fails."""
    import typst

    source = page(True, values | {"day": literal_day(day)})
    noon = datetime.fromisoformat(f"{day or '2000-01-01'}T12:00").replace(tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        for part in parts:
            if isinstance(part, Picture):
                Path(folder, part.file).write_bytes(part.data)
            if isinstance(part, Gallery):
                for index, card in enumerate(part.cards):
                    Path(folder, f"figure{part.number}_{index}.png").write_bytes(card.data or b"")
        main = Path(folder, "report.typ")
        main.write_text(source, encoding="utf-8")
        try:
            # System fonts are used only for characters that no embedded font has; the PDF then depends on them.
            typst.compile(
                str(main),
                output=str(temporary),
                font_paths=[str(chinese_font().parent)],
                ignore_system_fonts=not uncovered(source),
                timestamp=noon,
            )
        except typst.TypstError as error:
            message = f"{path}: Typst could not make the PDF ({error}); {path.stem}.html was written."
            raise UserError(message) from None


def literal_day(day: str | None) -> str:
    """A day as a ``datetime`` of Typst."""
    if day is None:
        return "none"
    year, month, date = map(int, day.split("-"))
    return f"datetime(year: {year}, month: {month}, day: {date})"


def beyond_latin(text: str) -> set[str]:
    """The characters other than Latin, Greek, Cyrillic and symbols, mostly Chinese."""
    return set(re.findall("[\u0530-\u1dff\u2e80-\U0010ffff]", text))


def uncovered(text: str) -> str:
    """The characters that no embedded font has, such as some of simplified Chinese."""
    beyond = beyond_latin(text)
    known = FT2Font(str(chinese_font())).get_charmap() if beyond else {}
    return "".join(sorted(character for character in beyond if ord(character) not in known))
