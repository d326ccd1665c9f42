"""The style of all figures: font sizes, a new figure, and writing a figure as PNG.

Figures use matplotlib's object-oriented interface, because pyplot would keep them in memory.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lab.files import write_whole

GREY = "#595959"
TITLE, LABEL, TICK, SMALL = 13, 12, 11, 9.5  # points
DPI, PHOTOS = 200, 110  # of figures; of those that are made of photographs


def plain(text: str) -> str:
    """Escape dollar signs, which matplotlib would take for the start of a formula."""
    return text.replace("$", r"\$")


def chinese_font() -> Path:
    """The Chinese font of the report and the figures, Noto Serif TC. Raises ``ModuleNotFoundError`` if it is not installed."""
    import pylopdf_fonts_zh_tw

    return pylopdf_fonts_zh_tw.serif_path()


def use_chinese_font() -> None:
    """Let matplotlib take the characters that its own font lacks from the Chinese font, if that is installed."""
    with contextlib.suppress(ModuleNotFoundError):
        path = chinese_font()
        font_manager.fontManager.addfont(path)
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", font_manager.FontProperties(fname=path).get_name()]


use_chinese_font()


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return a figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    write_whole(path, png(figure))


def new_figure(width: float, height: float, title: str) -> Figure:
    """Make an empty figure; sizes are in inches, and the title is wrapped to the width."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    if title:
        figure.suptitle(textwrap.fill(plain(title), max(20, int(width * 9))), fontsize=TITLE)
    return figure
