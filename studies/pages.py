"""A page of a study: one HTML file that needs no network, with interactive figures, pictures and thumbnails on hover."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from plotly.offline import get_plotlyjs

from lab.figures.style import DPI, png
from lab.files import write_whole

THUMBNAIL = 96  # px
MOST_THUMBNAILS = 2000  # of a page, 2 to 3 KB each

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
body { max-width: 72rem; margin: 0 auto; padding: 0 1rem 4rem; }
h1 { line-height: 1.2; } h2 { margin-top: 3rem; }
img { max-width: min(100%, 56rem); height: auto; display: block; margin-bottom: 1rem; }
li { margin-bottom: .7rem; } li span { color: #555; }
#thumbnail { position: fixed; display: none; pointer-events: none; width: 160px; z-index: 9; }
#thumbnail { border: 1px solid #555; background: #fff; }
</style>
<script>{{ plotly }}</script>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
{% for section in sections %}
<h2>{{ section.heading }}</h2>
{% for text in section.texts %}<p>{{ text }}</p>
{% endfor %}{% if section.points %}<ul>
{% for text, advice in section.points %}<li>{{ text }} <span>{{ advice }}</span></li>
{% endfor %}</ul>
{% endif %}{% for plot in section.plots %}<div class="plot" data-figure="{{ plot }}"></div>
{% endfor %}{% for picture, alt in section.pictures %}<img src="data:image/png;base64,{{ picture }}" alt="{{ alt }}">
{% endfor %}{% endfor %}
</main>
<img id="thumbnail" alt="">
<script>
const thumbnails = {{ thumbnails }};
const shown = document.getElementById("thumbnail");
for (const place of document.querySelectorAll(".plot")) {
  const figure = JSON.parse(place.dataset.figure);
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false}).then(() => {
    place.on("plotly_hover", (event) => {
      const key = [event.points[0].customdata].flat()[0];
      if (!(key in thumbnails)) return;
      shown.src = "data:image/jpeg;base64," + thumbnails[key];
      shown.style.left = Math.min(event.event.clientX + 16, innerWidth - 180) + "px";
      shown.style.top = Math.max(0, Math.min(event.event.clientY + 16, innerHeight - 180)) + "px";
      shown.style.display = "block";
    });
    place.on("plotly_unhover", () => { shown.style.display = "none"; });
  });
}
</script>
</body>
</html>
"""


@dataclass
class Section:
    """A part of a page.

    Attributes:
        heading: its heading.
        texts: its paragraphs.
        points: a list of sentences, each with what to do.
        plots: Plotly figures. The first number of a point's ``customdata`` is the key of its thumbnail.
        pictures: PNG files, each with a text for those who do not see it.
    """

    heading: str
    texts: Sequence[str] = ()
    points: Sequence[tuple[str, str]] = ()
    plots: Sequence[Any] = ()
    pictures: Sequence[tuple[bytes, str]] = field(default_factory=list)


class Output:
    """The files of a study of one data set: ``<stem>_<name>.png`` and others. Pictures are kept for the page.

    ``pictures`` says whether images may be shown.
    """

    def __init__(self, folder: Path, stem: str, pictures: bool) -> None:
        self.folder, self.stem, self.pictures, self.files = folder, stem, pictures, list[str]()

    def remove_old(self, *files: str) -> None:
        """Delete ``<stem>_<file>`` of an earlier start, which this one may not write again, or must not show."""
        for file in files:
            (self.folder / f"{self.stem}_{file}").unlink(missing_ok=True)

    def write(self, ending: str, content: str | bytes, name: str = "") -> None:
        """Write a file."""
        file = f"{self.stem}{'_' * bool(name)}{name}.{ending}"
        write_whole(self.folder / file, content)
        self.files.append(file)

    def picture(self, name: str, figure: Figure, alt: str, dpi: int = DPI) -> tuple[bytes, str]:
        """Write a figure; returns it as PNG with ``alt``, the text for those who do not see it."""
        data = png(figure, dpi)
        self.write("png", data, name)
        return data, alt

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table."""
        self.write("csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"), name)


def small(image: np.ndarray, side: int = 144) -> np.ndarray:
    """An image as it is drawn: RGB uint8 with a longer side of at most ``side`` px."""
    copy = Image.fromarray(image)
    copy.thumbnail((side, side))
    return np.asarray(copy)


def thumbnail(image: np.ndarray) -> str:
    """An image, RGB uint8 [H, W, 3], as a small JPEG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(small(image, THUMBNAIL)).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def page(title: str, lead: str, sections: Sequence[Section], thumbnails: dict[int, str]) -> str:
    """The page as HTML; all texts are escaped."""
    shown = [
        {
            "heading": section.heading,
            "texts": section.texts,
            "points": section.points,
            "plots": [figure.to_json() for figure in section.plots],
            "pictures": [(base64.b64encode(png).decode(), alt) for png, alt in section.pictures],
        }
        for section in sections
    ]
    template = Environment(autoescape=True).from_string(TEMPLATE)
    plotly = get_plotlyjs() if any(section.plots for section in sections) else ""
    trusted = {"plotly": Markup(plotly), "thumbnails": Markup(json.dumps(thumbnails))}
    return template.render(title=title, lead=lead, sections=shown, **trusted)
