"""The page's HTML: a card for each model, and the predictions for an image. Styles are in page.css.

Images are embedded as data URIs, so the server gives out no image files. Names of classes and files are escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape as html_escape
from itertools import combinations

import numpy as np
import pandas as pd
from PIL import Image

from lab.checkpoints.ensembles import count_parameters
from lab.data.preprocessing import Preprocessing, window_corner
from lab.evaluation.confidence import setting
from lab.evaluation.metrics import OVERALL
from lab.page.networks import Prediction, TrainedModel
from lab.page.texts import LANGUAGES, TEXTS, Texts
from lab.text import percent


@dataclass(frozen=True)
class Answer:
    """The answer to one raw image, RGB uint8 [H, W, 3]: every model's prediction or, with no image, the reason why there is none.

    ``title`` is the name that is shown, ``truth`` the true class, if known.
    """

    title: str
    image: np.ndarray | None = None
    predictions: list[Prediction] = field(default_factory=list)
    truth: int | None = None
    seconds: float = 0.0
    reason: str = ""


# An image in a table: its name, the raw image, every model's probabilities [K], and, if there are none, the reason.
Row = tuple[str, np.ndarray | None, list[np.ndarray], str]
RAW_SIDE = 480  # px: longest side of the raw image as sent to the page
THUMBNAIL = 80  # px: longest side of an image in a table, shown at half the size
MAX_BARS = 6  # classes with a bar; of more classes, the five most probable


def escape(text: str) -> str:
    """Escape text for HTML, and braces and dollar signs too, which Gradio would take for a template."""
    return html_escape(text).replace("{", "&#123;").replace("$", "&#36;")


def picture(image: np.ndarray, alt: str, lossless: bool = False) -> str:
    """An image uint8 [H, W, 3] as an ``img`` element: a PNG if ``lossless``, else a smaller WebP."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG" if lossless else "WEBP", **({} if lossless else {"quality": 88}))
    uri = f"data:image/{'png' if lossless else 'webp'};base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<img class="{"pixels" if lossless else ""}" alt="{escape(alt)}" src="{uri}">'


def probability(share: float, digits: int = 1) -> str:
    """A probability in percent; 100 only if it is exactly 1."""
    text = percent(share, digits)
    return f"> {100 - 10**-digits:.{digits}f} %" if text.startswith("100") and share < 1 else text


def notice(text: str, kind: str = "wrong") -> str:
    """A message: an error (``wrong``) or a ``hint``."""
    return f'<div class="notice {kind}" role="{"alert" if kind == "wrong" else "note"}">{escape(text)}</div>'


# ------------------------------------------------------------------------------------------------------ the models


def header(say: Texts, data: str, classes: Sequence[str], images: int, titles: Sequence[str]) -> str:
    """The page's header; ``titles`` are those of the models."""
    size = say("data_images" if images else "data", data=data, classes=len(classes), images=say.images(images))
    links = "".join(
        f'<a href="/?lang={language}" lang="{TEXTS[language]("lang")}"{" aria-current=true" * (language == say.language)}>'
        f"{name}</a>"
        for language, name in LANGUAGES.items()
    )
    return (
        f'<header class="top"><nav aria-label="{say("switch")}">{links}</nav><p class="eyebrow">{escape(size)}</p>'
        f"<h1>{say('heading')}</h1><p>{say('about', models=say.listed(titles))} <strong>{say('caution')}</strong></p></header>"
        f'<p id="lost" class="notice wrong" role="alert" hidden>{say("lost")}</p>'
    )


def cards(say: Texts, models: Sequence[TrainedModel], device: str) -> str:
    """A card for each model: accuracy with its interval on a common axis, parameters, time for an image, size of the input."""
    lows = [model.accuracy[1] for model in models if not np.isnan(model.accuracy[1])]
    # The axis starts slightly below the lowest interval, so that differences can be seen; its ends are labelled.
    start = min(0.98, max(0.0, np.floor(50 * min(lows, default=0.0)) / 50 - 0.01))
    return f'<div class="cards">{"".join(card(say, model, start, device) for model in models)}</div>'


def card(say: Texts, model: TrainedModel, start: float, device: str) -> str:
    """One model; ``start`` is the accuracy at which the interval's axis starts."""
    tags = f'<span class="tag">{say("seeds", count=len(model.members))}</span>' if len(model.members) > 1 else ""
    accuracy, interval = f'<p class="big">–<small> {say("no_accuracy")}</small></p>', ""
    share, low, high = model.accuracy
    if not np.isnan(share):
        accuracy = f'<p class="big">{percent(share)}<small> {say("accuracy")}</small></p>'
    if not np.isnan(low):
        left, right, dot = (100 * (value - start) / (1 - start) for value in (low, high, share))
        interval = (
            f'<div class="axis"><i style="left:{left:.2f}%;width:{right - left:.2f}%"></i><b style="left:{dot:.2f}%"></b></div>'
            f'<p class="scale"><span>{100 * start:.0f} %</span><span>{say("interval", low=100 * low, high=100 * high)}</span>'
            "<span>100 %</span></p>"
        )
    facts = {
        say("parameters"): f"{count_parameters(model.members) / 1e6:.1f} M",
        say("input_size"): f"{model.preprocessing.size} px",
        say("time", device=device) + passes(say, model): f"{model.milliseconds:,.0f} ms",
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        f'<article class="card {model.name}"><h2>{model.title}{tags}</h2>{accuracy}{interval}'
        f'<dl class="facts">{rows}</dl></article>'
    )


def passes(say: Texts, model: TrainedModel) -> str:
    """Why an image takes long: the passes through the networks that one prediction averages, and the time of each."""
    members = len(model.members)
    parts = [say("networks", count=members)] * (members > 1) + [say("views")] * model.d4
    each = model.milliseconds / (members * (8 if model.d4 else 1))
    return say("passes", passes=" × ".join(parts), each=f"{each:,.0f}" if each >= 1 else "< 1") if parts else ""


# ------------------------------------------------------------------------------------------------------ the results

# Of all classes together, and how far to trust a prediction.
METRICS = {
    "accuracy": percent,
    "balanced_accuracy": percent,
    **dict.fromkeys(("macro_f1", "auc", "log_loss"), "{:.4f}".format),
}
TRUST = {"temperature": "{:.3f}".format, **dict.fromkeys(("calibration_error_raw", "calibration_error"), percent)}
TRUST |= dict.fromkeys(("certain_threshold", "certain_coverage", "certain_risk"), percent)
SYSTEM = ("accuracy", "f1", "auc", "calibration_error", "parameters", "cost", "speed", "p")
PAIRED = ("only_first_right", "only_second_right", "mcnemar_p")  # of two models


def results(say: Texts, table: pd.DataFrame, models: Sequence[TrainedModel], classes: Sequence[str]) -> str:
    """What evaluate.py measured on valid, from the rows of ``metrics.csv``: of each model, of each class, of pairs of models."""
    rows = {(model, scope, metric): limits for model, scope, metric, *limits, _ in table.itertuples(index=False)}
    titles = {model.name: model.title for model in models if (model.name, OVERALL, "accuracy") in rows}

    def cell(model: str, scope: str, metric: str, form: Callable[[float], str] = percent) -> str:
        """A value, with its interval if it has one."""
        value, low, high = rows.get((model, scope, metric), (np.nan,) * 3)
        interval = "" if np.isnan(low) else f"<small>{100 * low:.1f}–{100 * high:.1f}</small>"
        return f"<td>{'–' if np.isnan(value) else form(value)}{interval}</td>"

    known = set(table["metric"])
    parts = [
        wide(
            say(heading),
            [say("model"), *(say(f"metric_{name}") for name in metrics)],
            [
                (title, "".join(cell(model, OVERALL, name, form) for name, form in metrics.items()))
                for model, title in titles.items()
            ],
        )
        for heading, metrics in (("overall", METRICS), ("trust", TRUST))
        if known & set(metrics)
    ]
    sides = [(model, title, side) for model, title in titles.items() for side in ("precision", "recall")]
    single = [
        (
            escape(name),
            "".join(cell(model, name, side, lambda value: f"{100 * value:.1f}") for model, _, side in sides)
            + cell(next(iter(titles)), name, "support", "{:,.0f}".format),
        )
        for name in classes
    ]
    pairs = [
        (
            f"{titles[first]} · {titles[second]}",
            "".join(
                cell(f"{first} vs {second}", OVERALL, metric, form)
                for metric, form in zip(PAIRED, ("{:.0f}".format, "{:.0f}".format, "{:.3g}".format), strict=True)
            ),
        )
        for first, second in combinations(titles, 2)
    ]
    heads = [say("class"), *(f"{title}<br>{say(side)}" for _, title, side in sides), say("support")]
    parts.append(wide(say("by_class"), heads, single))
    if pairs:
        parts.append(wide(say("mcnemar"), [say("pair_of_models"), *(say(metric) for metric in PAIRED)], pairs))
    return f'<section class="results">{"".join(parts)}</section>'


def systems(say: Texts, table: pd.DataFrame) -> str:
    """All systems that ``studies.compare`` compared, the best first."""

    def number(value: float, form: str) -> str:
        return f"<td>{'–' if np.isnan(value) else format(value, form)}</td>"

    rows = [
        (
            f"{position}. {escape(row['title'])}",
            f"<td>{percent(row['accuracy'])}<small>{100 * row['low']:.1f}–{100 * row['high']:.1f}</small></td>"
            + number(100 * row["f1"], ".2f")
            + number(row["auc"], ".4f")
            + number(100 * row["calibration_error"], ".1f")
            + number(row["parameters"] / 1e6, ",.2f")
            + number(row["training_flop"] / 1e12, ",.0f")
            + number(row["images_per_second"], ",.0f")
            + number(row["p_resnet18"], ".2g"),
        )
        for position, row in enumerate(table.to_dict("records"), 1)
    ]
    heads = [say("system"), *(say(f"system_{name}") for name in SYSTEM)]
    return f'<section class="results">{wide(say("systems"), heads, rows)}<p>{say("systems_note")}</p></section>'


def wide(title: str, heads: Sequence[str], rows: Sequence[tuple[str, str]], shown: bool = True) -> str:
    """A table that scrolls sideways where it does not fit; a row is the HTML of its head and of its cells."""
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(f'<tr><th scope="row">{head}</th>{cells}</tr>' for head, cells in rows)
    return (
        f"{f'<h3>{title}</h3>' if shown else ''}"
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


# ------------------------------------------------------------------------------------------------------ the predictions


def drop_zone(say: Texts, limit: int, most: int) -> str:
    """Where up to ``most`` images of up to ``limit`` bytes are chosen; page.js also takes those that are dropped or pasted
    anywhere."""
    return (
        f'<div class="drop" data-limit="{limit}" data-most="{most}"><label>{say("choose")}'
        '<input type="file" multiple accept="image/*,.bmp,.tif,.tiff"></label>'
        f'<p>{say("limits", limit=limit // 2**20)}</p><p role="status"></p></div>'
    )


def answer(say: Texts, one: Answer, classes: list[str]) -> str:
    """Every model's prediction for an image, or the reason why there is none."""
    if one.image is None:
        return notice(say("refused", name=one.title, reason=one.reason))
    predictions, truth = one.predictions, one.truth
    labels = bar_labels(predictions)
    panels = "".join(panel(say, prediction, classes, labels, truth) for prediction in predictions)
    height, width = one.image.shape[:2]
    rows: list[Row] = [(one.title, one.image, [prediction.probabilities for prediction in predictions], "")]
    models = [prediction.model for prediction in predictions]
    known = f"{say('true_class', label=f'<b>{escape(classes[truth])}</b>')}<br>" if truth is not None else ""
    return (
        f'<section class="answer"><p class="verdict" role="status">{escape(one.title)}: {verdict(say, predictions, classes)}</p>'
        f'<div class="result"><figure class="raw">{framed(say, one.image, predictions[0].model.preprocessing)}'
        f"<figcaption>{known}{say('window', width=width, height=height)}"
        f"<br>{say('seconds', seconds=one.seconds)}</figcaption></figure>"
        f'<div class="panels">{panels}</div></div>{doubts(say, predictions)}'
        f"{legend(say, predictions)}{csv_link(say, rows, models, classes)}</section>"
    )


def table(say: Texts, rows: Sequence[Row], models: Sequence[TrainedModel], classes: Sequence[str]) -> str:
    """Every model's predicted class for several images."""
    body = []
    for name, image, shares, reason in rows:
        small, cells = "", f'<td colspan="{len(models)}">{escape(reason)}</td>'
        if image is not None:
            small = picture(reduced(image, THUMBNAIL), "")
            cells = "".join(
                f"<td>{predicted(say, model, row, classes)}</td>" for model, row in zip(models, shares, strict=True)
            )
        body.append((f"<div>{small}{escape(name)}</div>", cells))
    heads = [say("table_image"), *(model.title for model in models)]
    return (
        f'<section class="answer"><p class="verdict" role="status">{say("table_title", images=say.images(len(rows)))}</p>'
        f"{wide(say('table_label'), heads, body, shown=False)}"
        f"{csv_link(say, rows, models, classes)}</section>"
    )


def csv_link(say: Texts, rows: Sequence[Row], models: Sequence[TrainedModel], classes: Sequence[str]) -> str:
    """A link that saves the predictions as a CSV: a row for each image and model, or for an image without a prediction."""
    records: list[dict[str, object]] = []
    for name, _, shares, reason in rows:
        for model, row in zip(models, shares, strict=False):
            values = {f"probability_{label}": round(float(share), 5) for label, share in enumerate(row)}
            record = {"image": name, "model": model.name, "predicted": classes[int(row.argmax())]}
            records.append({**record, "verdict": "certain" if model.is_certain(row) else "uncertain", **values})
        if reason:
            records.append({"image": name, "reason": reason})
    columns = [
        "image",
        "model",
        "predicted",
        "verdict",
        *(f"probability_{label}" for label in range(len(classes))),
        "reason",
    ]
    data = base64.b64encode(pd.DataFrame(records, columns=columns).to_csv(index=False).encode()).decode()
    uri = f"data:text/csv;charset=utf-8;base64,{data}"
    return f'<p class="save"><a download="predictions.csv" href="{uri}">{say("save_csv")}</a></p>'


def verdict(say: Texts, predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    """One sentence: which models predict which class, and which are uncertain."""
    titles: dict[str, list[str]] = {}
    for prediction in predictions:
        label = f"<b>{escape(classes[prediction.predicted])}</b>" if prediction.certain else ""
        titles.setdefault(label, []).append(prediction.model.title)
    parts = []
    for label, names in titles.items():
        number = "all" if len(names) == len(predictions) > 2 else "one" if len(names) == 1 else "several"
        values = {"models": say.listed(names), "count": len(names), "label": label}
        parts.append(say(f"predict_{number}", **values) if label else say(f"uncertain_{number}", **values))
    return say("semicolon").join(parts)


def predicted(say: Texts, model: TrainedModel, shares: np.ndarray, classes: Sequence[str]) -> str:
    """The predicted class and its probability; below the model's threshold ``uncertain`` stands in the place of the class."""
    label, share = escape(classes[int(shares.argmax())]), probability(float(shares.max()))
    if model.is_certain(shares):
        return f"<b>{label}</b> <span>{share}</span>"
    key = "below" if model.threshold <= 1 else "below_all"
    return f"<b>{say('uncertain')}</b>{say(key, label=label, share=share, limit=probability(min(model.threshold, 1)))}"


def doubts(say: Texts, predictions: Sequence[Prediction]) -> str:
    """What ``uncertain`` means, if a model is; else empty."""
    texts = [
        say(
            "doubt",
            model=one.model.title,
            limit=probability(one.model.threshold),
            risk=percent(setting(one.model.about, "certain_risk", one.model.d4, 0.0), 1),
            coverage=percent(setting(one.model.about, "certain_coverage", one.model.d4, 0.0), 1),
        )
        for one in predictions
        if one.model.threshold <= 1 and not one.certain
    ]
    return f'<p class="legend">{say("doubts", models=say("semicolon").join(texts))}</p>' if texts else ""


def bar_labels(predictions: Sequence[Prediction]) -> list[int]:
    """The classes that get a bar, most probable first; the same for every model, so that panels can be compared."""
    highest = np.max([prediction.probabilities for prediction in predictions], axis=0)
    bars = len(highest) if len(highest) <= MAX_BARS else MAX_BARS - 1
    return [int(label) for label in np.argsort(-highest, kind="stable")[:bars]]


def panel(say: Texts, prediction: Prediction, classes: Sequence[str], labels: Sequence[int], truth: int | None) -> str:
    """One model's prediction: the class, the input, the heat map and a bar for each of ``labels``."""
    model, shares, top = prediction.model, prediction.probabilities, prediction.predicted
    mark = ""
    if truth is not None:
        kind = "correct" if top == truth else "wrong"
        mark = f'<span class="mark {kind}">{say(kind)}</span>'
    side = prediction.input.shape[0]
    bars = "".join(
        f'<li class="{"top" if label == top else ""}"><span>{escape(classes[label])}</span>'
        f'<i><b style="width:{100 * shares[label]:.2f}%"></b></i><em>{probability(shares[label])}</em></li>'
        for label in labels
    )
    return (
        f'<article class="panel {model.name}"><h3>{model.title}{mark}</h3>'
        f'<p class="predicted">{predicted(say, model, shares, classes)}</p>'
        f'<div class="pair"><figure>{picture(prediction.input, say("input_of", model=model.title), lossless=True)}'
        f"<figcaption>{say('input', side=side)}</figcaption></figure>"
        f'{explanation(say, prediction, classes)}</div><ul class="bars">{bars}</ul></article>'
    )


def explanation(say: Texts, prediction: Prediction, classes: Sequence[str]) -> str:
    """The heat map with a link to save it, or why there is none."""
    model = prediction.model
    if prediction.heat is None:
        return f"<figure><figcaption>{say('no_heat_map')}</figcaption></figure>"
    evidence = say("evidence" if prediction.has_evidence else "no_evidence", label=escape(classes[prediction.label]))
    return (
        f'<figure class="heat">{picture(prediction.heat, say("heat_map_of", model=model.title))}<figcaption>{evidence} '
        f'<a href="#" download="heat_map_{model.name}.png" aria-label="{say("save_heat_map", model=model.title)}">PNG</a>'
        "</figcaption></figure>"
    )


def attributions(
    say: Texts,
    name: str,
    model: TrainedModel,
    classes: Sequence[str],
    label: int,
    input_image: np.ndarray,
    maps: Mapping[str, np.ndarray],
) -> str:
    """One model's attribution maps of an image for class ``label``, beside its input."""
    side = input_image.shape[0]
    pictures = {say("input", side=side): picture(input_image, say("input_of", model=model.title), lossless=True)}
    for method, drawn in maps.items():
        title = say(f"map_{method}")
        pictures[title] = picture(drawn, say("map_of", method=title, model=model.title), lossless=True)
    figures = "".join(
        f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>" for caption, drawn in pictures.items()
    )
    title = say("map_title", name=escape(name), model=model.title, label=f"<b>{escape(classes[label])}</b>")
    return (
        f'<section class="answer"><p class="verdict" role="status">{title}</p><div class="maps">{figures}</div>'
        f'<p class="legend"><span class="ramp signed"></span> {say("map_legend")}</p></section>'
    )


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """An image with sides of at most ``side`` px."""
    small = Image.fromarray(image)
    small.thumbnail((side, side))
    return np.array(small)


def framed(say: Texts, image: np.ndarray, preprocessing: Preprocessing) -> str:
    """The raw image with a frame around the window, clipped to the image."""
    height, width = image.shape[:2]
    x, y = window_corner(image, preprocessing.window, preprocessing.mask(image))
    side = preprocessing.window
    style = f"left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%;"
    style += f"width:{100 * side / width:.2f}%;height:{100 * side / height:.2f}%"
    return (
        f'<div class="frame">{picture(reduced(image, RAW_SIDE), say("raw_image"))}<span style="{style}"></span></div>'
    )


def legend(say: Texts, predictions: Sequence[Prediction]) -> str:
    """How to read the heat maps, if there are any."""
    stages = [
        say("stage", model=one.model.title, stage=one.stage, side=one.map_side) for one in predictions if one.stage
    ]
    if not stages:
        return ""
    return f'<p class="legend"><span class="ramp"></span> {say("legend", stages=say("semicolon").join(stages))}</p>'


# ------------------------------------------------------------------------------------------------------ the gallery

# A grid has changed: page.js marks the chosen image in it.
MARK = "const mark = () => document.dispatchEvent(new Event('mark')); mark(); watch('value', mark);"


def grid(pictures: Sequence[tuple[int, np.ndarray, str, str]], title: str = "") -> str:
    """Pictures to choose from: index in the list, image uint8 [H, W, 3], caption, and ``correct``, ``wrong`` or empty."""
    buttons = "".join(
        f'<button type="button" data-index="{index}" class="{kind}">{picture(image, "")}<span>{escape(caption)}</span></button>'
        for index, image, caption, kind in pictures
    )
    return f'{f"<p>{escape(title)}</p>" if title else ""}<div class="grid">{buttons}</div>'
