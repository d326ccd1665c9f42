"""The style of all figures: font sizes, an empty figure, and writing one as PNG.

Figures are made by matplotlib's object interface, not through pyplot: no window, nothing kept in memory.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lab.files import write_whole

GREY = "#595959"
TITLE, LABEL, TICK, SMALL = 13, 12, 11, 9.5  # points
DPI = 200


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: a dollar sign would open a formula."""
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_whole(path, png(figure))


def new_figure(width: float, height: float, title: str) -> Figure:
    """Make an empty figure of a size in inches, its title wrapped to its width."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    if title:
        figure.suptitle(textwrap.fill(plain(title), max(20, int(width * 9))), fontsize=TITLE)
    return figure
