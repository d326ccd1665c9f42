"""The page's HTML: a card for each model, and the answer to an image. Styles are in page.css.

Images go into the text itself, as data addresses: nothing of them lies in a file that somebody might ask for. All that comes
from outside, names of classes and of files, is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape as plain_escape

import numpy as np
from PIL import Image

from lab.checkpoints.ensembles import count_parameters
from lab.data.preprocessing import Preprocessing, window_corner
from lab.page.networks import Answer, Depth
from lab.text import counted, percent
from models.catalog import find

RAW = 480  # px: longest side of the raw image as it is sent to the page
BARS = 6  # classes with a bar; of more, the five most probable


def escape(text: str) -> str:
    """Foreign text as HTML; the braces, too, since Gradio takes what it shows for a template."""
    return plain_escape(text).replace("{", "&#123;").replace("$", "&#36;")


def picture(image: np.ndarray, words: str, exact: bool = False) -> str:
    """An image uint8 [H, W, 3] with the words that describe it; ``exact`` to the pixel, or as a small file."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG" if exact else "WEBP", **({} if exact else {"quality": 88}))
    address = f"data:image/{'png' if exact else 'webp'};base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<img class="{"pixels" if exact else ""}" alt="{escape(words)}" src="{address}">'


def probability(share: float, digits: int = 1) -> str:
    """A probability in percent; 100 only where it is exactly 1."""
    text = percent(share, digits)
    return f"> {100 - 10**-digits:.{digits}f} %" if text.startswith("100") and share < 1 else text


def notice(text: str, kind: str = "wrong") -> str:
    """A sentence that says what is wrong (``wrong``) or missing (``hint``)."""
    return f'<div class="notice {kind}" role="{"alert" if kind == "wrong" else "note"}">{escape(text)}</div>'


# ------------------------------------------------------------------------------------------------------ the depths


def header(data: str, classes: Sequence[str], images: int) -> str:
    """The page's title."""
    held = f", {counted(images, 'image')} of valid.csv" if images else ""
    return (
        f'<header class="top"><p class="eyebrow">{escape(data)} · {len(classes)} classes{held}</p>'
        f"<h1>What is this cell, and where do you see it?</h1>"
        f"<p>Residual networks of several depths, built by hand and trained from scratch, look at one image side by side.</p>"
        f"</header>"
    )


def cards(depths: Sequence[Depth], device: str) -> str:
    """A card for each depth: accuracy with its interval on one axis for all, parameters, speed, size of the input."""
    known = [depth.accuracy for depth in depths if not np.isnan(depth.accuracy[1])]
    # The axis begins a little below the lowest interval, so that what differs is seen; its ends are written beside it.
    start = max(0.0, np.floor(50 * min((low for _, low, _ in known), default=0.0)) / 50 - 0.01)
    start = min(start, 0.98)
    return f'<div class="cards">{"".join(card(depth, start, device) for depth in depths)}</div>'


def card(depth: Depth, start: float, device: str) -> str:
    """One depth; ``start`` is the accuracy at which the interval's axis begins."""
    kind = f'<span class="tag">mean of {len(depth.members)} seeds</span>' if len(depth.members) > 1 else ""
    kind += '<span class="tag">D4</span>' if depth.d4 else ""
    value, bar = '<p class="big">–<small> not measured on valid</small></p>', ""
    share, low, high = depth.accuracy
    if not np.isnan(share):
        value = f'<p class="big">{100 * share:.2f}<small> % right on valid</small></p>'
    if not np.isnan(low):
        left, right, dot = (100 * (value - start) / (1 - start) for value in (low, high, share))
        bar = (
            f'<div class="axis"><i style="left:{left:.2f}%;width:{right - left:.2f}%"></i><b style="left:{dot:.2f}%"></b></div>'
            f'<p class="scale"><span>{100 * start:.0f} %</span><span>95 % interval {100 * low:.2f}–{100 * high:.2f}</span>'
            f"<span>100 %</span></p>"
        )
    facts = {
        "parameters": f"{count_parameters(depth.members) / 1e6:.1f} M",
        f"an image, {device}": f"{depth.milliseconds:,.0f} ms",
        "input": f"{depth.preprocessing.size} px",
    }
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        f'<article class="card {depth.model}"><h2>{find(depth.model).title}{kind}</h2>{value}{bar}'
        f'<dl class="facts">{listed}</dl></article>'
    )


# ------------------------------------------------------------------------------------------------------ the answer


def answer(
    title: str, image: np.ndarray, answers: Sequence[Answer], classes: Sequence[str], truth: int | None, seconds: float
) -> str:
    """Every depth's answer to a raw image, RGB uint8 [H, W, 3]; ``truth`` is its class where that is known."""
    drawn = shown_classes(answers)
    panels = "".join(answer_panel(one, classes, drawn, truth) for one in answers)
    height, width = image.shape[:2]
    known = f" · true class <b>{escape(classes[truth])}</b>" if truth is not None else ""
    return (
        f'<section class="answer"><p class="verdict">{verdict(answers, classes)}</p>'
        f'<div class="looks"><figure class="raw">{framed(image, answers[0].depth.preprocessing)}'
        f"<figcaption><b>{escape(title)}</b>{known}<br>{width} × {height} px; the frame is the window the networks get"
        f"<br>answered in {seconds:.1f} s</figcaption></figure>"
        f'<div class="panels">{panels}</div></div>{legend(answers)}</section>'
    )


def verdict(answers: Sequence[Answer], classes: Sequence[str]) -> str:
    """One sentence: who says what."""
    said: dict[int, list[str]] = {}
    for one in answers:
        said.setdefault(one.predicted, []).append(find(one.depth.model).title)
    if len(answers) > 1 and len(said) == 1:
        number = {2: "Both", 3: "All three"}.get(len(answers), "All")
        return f"{number} depths say <b>{escape(classes[answers[0].predicted])}</b>"
    parts = [
        f"{' and '.join(models)} {'say' if len(models) > 1 else 'says'} <b>{escape(classes[label])}</b>"
        for label, models in said.items()
    ]
    return "; ".join(parts)


def shown_classes(answers: Sequence[Answer]) -> list[int]:
    """The classes that get a bar, the same ones in the same order for every depth: the most probable first."""
    most = np.max([one.probabilities for one in answers], axis=0)
    return [int(label) for label in np.argsort(-most, kind="stable")[: len(most) if len(most) <= BARS else BARS - 1]]


def answer_panel(one: Answer, classes: Sequence[str], drawn: Sequence[int], truth: int | None) -> str:
    """One depth's answer: the class, its input, its heat map, and the probabilities."""
    mark = ""
    if truth is not None:
        right = one.predicted == truth
        mark = f'<span class="mark {"right" if right else "wrong"}">{"✓ right" if right else "✗ wrong"}</span>'
    size = one.seen.shape[0]
    name, explained = find(one.depth.model).title, classes[one.label]
    speaks = "speaks for" if one.found else "nothing speaks for"
    bars = "".join(
        f'<li class="{"top" if label == one.predicted else ""}"><span>{escape(classes[label])}</span>'
        f'<i><b style="width:{100 * one.probabilities[label]:.2f}%"></b></i><em>{probability(one.probabilities[label])}</em></li>'
        for label in drawn
    )
    return (
        f'<article class="panel {one.depth.model}"><h3>{name}{mark}</h3>'
        f'<p class="says"><b>{escape(classes[one.predicted])}</b> {probability(one.probabilities[one.predicted])}</p>'
        f'<div class="pair"><figure>{picture(one.seen, f"input of {name}", exact=True)}'
        f"<figcaption>input, {size} × {size} px</figcaption></figure>"
        f'<figure class="heat">{picture(one.heat, f"heat map of {name}")}'
        f"<figcaption>{speaks} {escape(explained)}</figcaption></figure></div>"
        f'<ul class="bars">{bars}</ul></article>'
    )


def framed(image: np.ndarray, preprocessing: Preprocessing) -> str:
    """The raw image with the window's frame; what of the frame lies outside the image is not seen."""
    height, width = image.shape[:2]
    x, y = window_corner(image, preprocessing.window, preprocessing.mask(image))
    side = preprocessing.window
    shrunk = Image.fromarray(image)
    shrunk.thumbnail((RAW, RAW))
    place = f"left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%;"
    place += f"width:{100 * side / width:.2f}%;height:{100 * side / height:.2f}%"
    return f'<div class="frame">{picture(np.array(shrunk), "raw image")}<span style="{place}"></span></div>'


def legend(answers: Sequence[Answer]) -> str:
    """How to read the heat maps."""
    stages = "; ".join(
        f"{find(one.depth.model).title} {one.stage}, {one.places} × {one.places} places" for one in answers
    )
    return (
        '<p class="legend"><span class="ramp"></span> Grad-CAM, the mean of eight views: from grey, where nothing speaks for the '
        f"class, to yellow, where most does. It shows where, not why. {stages}, enlarged smoothly.</p>"
    )


# ------------------------------------------------------------------------------------------------------ the gallery

# Tells Python which picture was chosen: its place in the grid, and nothing else.
CHOOSE = """element.addEventListener('click', event => {
  const one = event.target.closest('[data-place]');
  if (!one) return;
  element.querySelectorAll('.chosen').forEach(other => other.classList.remove('chosen'));
  one.classList.add('chosen');
  trigger('select', {index: Number(one.dataset.place), value: null});
});"""


def grid(pictures: Sequence[tuple[np.ndarray, str, str]], title: str = "") -> str:
    """Pictures to choose from: image uint8 [H, W, 3], caption, and ``right``, ``wrong`` or nothing."""
    buttons = "".join(
        f'<button type="button" data-place="{place}" class="{kind}">{picture(image, caption)}'
        f"<span>{escape(caption)}</span></button>"
        for place, (image, caption, kind) in enumerate(pictures)
    )
    return f'{f"<p>{escape(title)}</p>" if title else ""}<div class="grid">{buttons}</div>'
