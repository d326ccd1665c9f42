"""The page's layout, made with Gradio: models, predictions for an image, gallery, curves, confusion matrices.

Defines the components and the function that each control calls; lab/page/answers.py computes, lab/page/server.py serves.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from lab.figures.roc import roc_points
from lab.page.answers import MAX_BYTES, MAX_UPLOADS, Chosen, Content, read_upload
from lab.page.figures import KINDS, coloured_shares, confusion_figure, curves_figure, roc_figure, systems_figure
from lab.page.html import MARK, Answer, cards, drop_zone, header, notice, results, systems
from lab.page.texts import LANGUAGES, TEXTS
from models.catalog import find

ANY = "any"
# Options of every event. "private": the functions are not offered as an API. "always_last": of the clicks during a computation,
# the last one is answered next; Gradio's default is to drop them. Without Gradio's queue an answer is the response to its
# request, and needs no second connection.
EVENT: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "minimal",
    "trigger_mode": "always_last",
    "queue": False,
}
# JavaScript that replaces the first two inputs by the visitor's choice (page.js) at the moment when the request is sent.
WITH_CHOICE = "(_, __, ...inputs) => [window.choice.index ?? -1, window.choice.files, ...inputs]"
# JavaScript that opens the first tab when an image of the gallery is clicked.
OPEN = "element.addEventListener('click', event => event.target.closest('[data-index]') && trigger('select'));"
# JavaScript that replaces the last input by whether the page shows the dark theme.
WITH_DARK = "(...inputs) => [...inputs.slice(0, -1), document.body.classList.contains('dark')]"


def build(content: Content) -> gr.Blocks:
    """The page in every language: English at ``/``, another at the route of its name, as ``/zh``."""
    examples = content.examples()
    first = content.predict(examples[0]) if examples else None
    # Gradio deletes uploads and thumbnails when they are an hour old.
    page = gr.Blocks(title=f"{content.data} · ResNet", analytics_enabled=False, delete_cache=(600, 3600))
    for language, name in LANGUAGES.items():
        with page if language == "en" else page.route(name, language, show_in_navbar=False):
            fill(replace(content, say=TEXTS[language]), examples, first)
    return page


def fill(content: Content, examples: list[int], first: Answer | None) -> None:
    """The page in one language."""
    say, images = content.say, len(content.valid.images) if content.valid else 0
    titles = [model.title for model in content.models]
    gr.HTML(header(say, content.data, content.classes, images, titles), elem_classes="page")
    gr.HTML(cards(say, content.models, content.hardware.device.type.upper()), elem_classes="page", elem_id="depths")
    with gr.Tabs(elem_id="tabs") as tabs:
        with gr.Tab(say("tab_predict"), id="predict"):
            predict_tab(content, examples, first)
        with gr.Tab(say("tab_explain"), id="explain") as tab:
            explain_tab(content, tab)
        with gr.Tab(say("tab_valid"), id="valid") as tab:
            gallery_tab(content, tab, tabs)
        with gr.Tab(say("tab_results"), id="results") as tab:
            results_tab(content, tab)
        if content.systems is not None:
            with gr.Tab(say("tab_systems"), id="systems") as tab:
                systems_tab(content, content.systems, tab)
        with gr.Tab(say("tab_curves"), id="curves") as tab:
            curves_tab(content, tab)
        with gr.Tab(say("tab_confusion"), id="confusion") as tab:
            confusion_tab(content, tab)


def predict_tab(content: Content, examples: list[int], first: Answer | None) -> None:
    """An image is uploaded or picked, and predicted. ``first`` is the answer to the first example."""
    say = content.say
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=270):
            gr.HTML(drop_zone(say, MAX_BYTES, MAX_UPLOADS), elem_id="upload", elem_classes="page")
            if examples:
                title = say("examples_differ" if len(content.models) > 1 else "examples")
                thumbnails = content.thumbnails(examples, title=title)
                gr.HTML(thumbnails, js_on_load=MARK, elem_id="examples", elem_classes="page")
            else:
                gr.HTML(notice(say("no_examples", why=content.why), "hint"), elem_classes="page")
        with gr.Column(scale=9, min_width=640):
            script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
            answer = gr.HTML(
                content.show(first),
                js_on_load=script,
                first=examples[0] if examples else None,
                texts=say.browser,
                lang=say("lang"),
                elem_id="answer",
                elem_classes="page",
            )
            with gr.Row():
                labels = [
                    (say("explained_default"), -1),
                    *((name, label) for label, name in enumerate(content.classes)),
                ]
                label = gr.Dropdown(labels, value=-1, label=say("explained"), min_width=200, elem_id="explained")
                stages = dict.fromkeys(stage for model in content.models for stage in find(model.name).stages)
                choices = [(say("layer_default"), ""), *((stage, stage) for stage in stages)]
                stage = gr.Radio(choices, value="", label=say("layer"), scale=2, min_width=300, elem_id="stage")

    def predict(index: object, uploads: list[str] | None, label: int, stage: str) -> str:
        """Predict image ``index`` of the list or, if there is no such image, the uploads."""
        try:
            chosen = choice(content, index, uploads)
            if uploads and len(uploads) > 1 and not isinstance(chosen, int):
                return content.table(uploads[:MAX_UPLOADS])
            return content.answer(chosen, label, stage)
        except OSError:
            return notice(say("deleted"))

    # One function for all events, so that of several events in a row the last one is answered last.
    index, uploads = gr.Number(visible=False), gr.File(file_count="multiple", visible=False)
    triggers, inputs = [answer.select, label.input, stage.input], [index, uploads, label, stage]
    gr.on(triggers, predict, inputs, answer, js=WITH_CHOICE, **EVENT)


def explain_tab(content: Content, tab: gr.Tab) -> None:
    """Attributions of the image that is chosen in the first tab, computed when the tab is opened."""
    say, names = content.say, content.names()
    with gr.Row():
        model = gr.Radio(names, value=names[0][1], label=say("model"), min_width=280, elem_id="explained-by")
        labels = [(say("explained_default"), -1), *((name, label) for label, name in enumerate(content.classes))]
        label = gr.Dropdown(labels, value=-1, label=say("map_class"), min_width=200, elem_id="explained-class")
    maps = gr.HTML(elem_id="maps", elem_classes="page")

    def draw(index: object, uploads: list[str] | None, model: str, label: int) -> str:
        try:
            return content.attributions(choice(content, index, uploads), model, label)
        except OSError:
            return notice(say("deleted"))

    inputs = [gr.Number(visible=False), gr.File(file_count="multiple", visible=False), model, label]
    gr.on([tab.select, model.input, label.input], draw, inputs, maps, js=WITH_CHOICE, **EVENT)


def choice(content: Content, index: object, uploads: list[str] | None) -> Chosen:
    """The image that the visitor chose: one of the list or, if there is none of this ``index``, the first upload."""
    if isinstance(index, int) and content.valid and 0 <= index < len(content.valid.images):
        return index
    return read_upload(uploads[0]) if uploads else None


def gallery_tab(content: Content, tab: gr.Tab, tabs: gr.Tabs) -> None:
    """The valid images, filtered, in pages; a click opens an image in the first tab."""
    valid, names, say = content.valid, content.names(), content.say
    if not valid:
        gr.HTML(notice(say("no_gallery", why=content.why), "hint"), elem_classes="page")
        return
    with gr.Row():
        model = gr.Radio(names, value=names[0][1], label=say("by"), min_width=280, elem_id="by")
        kinds = ["all", "correct", "wrong", *(["differ"] if len(names) > 1 else [])]
        results = [(say(f"result_{kind}"), kind) for kind in kinds]
        result = gr.Radio(results, value="all", label=say("result"), min_width=280, elem_id="result")
    with gr.Row():
        classes = [(say("any"), -1), *((name, label) for label, name in enumerate(content.classes))]
        label = gr.Dropdown(classes, value=-1, label=say("class"), min_width=170, elem_id="class")
        pairs = [(say("any"), ANY), *content.pairs(names[0][1])]
        pair = gr.Dropdown(pairs, value=ANY, label=say("pair"), min_width=220, elem_id="pair")
        orders = [(say(f"order_{kind}"), kind) for kind in ("list", "least", "most")]
        order = gr.Dropdown(orders, value="list", label=say("order"), min_width=150, elem_id="order")
    with gr.Row():
        low = gr.Slider(0, 100, 0, step=1, label=say("low"), min_width=240, elem_id="low")
        high = gr.Slider(0, 100, 100, step=1, label=say("high"), min_width=240, elem_id="high")
    gallery = gr.HTML(js_on_load=OPEN + MARK, elem_id="gallery", elem_classes="page")
    with gr.Row():
        previous = gr.Button(say("previous"), size="sm", min_width=90, elem_id="back")
        count = gr.HTML(elem_classes=["page", "counts"], elem_id="counts")
        following = gr.Button(say("next"), size="sm", min_width=90, elem_id="on")
    number = gr.State(0)
    filters = [model, label, result, low, high, pair, order]
    outputs = [gallery, number, count]

    def show(
        page: int, model: str, label: int, result: str, low: float, high: float, pair: str, order: str
    ) -> tuple[Any, ...]:
        classes = None if pair == ANY else (int(pair.split(">")[0]), int(pair.split(">")[1]))
        limits = low / 100, high / 100
        chosen = valid.choose(model, None if label < 0 else label, result, *limits, classes, order)
        return content.gallery(chosen, page, model)

    def change_model(
        model: str, label: int, result: str, low: float, high: float, _: str, order: str
    ) -> tuple[Any, ...]:
        """The confused pairs are those of the model, so the choice of a pair is reset."""
        choices = [(say("any"), ANY), *content.pairs(model)]
        return gr.Dropdown(choices, value=ANY), *show(0, model, label, result, low, high, ANY, order)

    tab.select(show, [number, *filters], outputs, **EVENT)
    model.input(change_model, filters, [pair, *outputs], **EVENT)
    for change in (label.input, result.input, pair.input, order.input, low.release, high.release):
        change(lambda *values: show(0, *values), filters, outputs, **EVENT)
    previous.click(lambda page, *values: show(page - 1, *values), [number, *filters], outputs, **EVENT)
    following.click(lambda page, *values: show(page + 1, *values), [number, *filters], outputs, **EVENT)
    gallery.select(None, None, tabs, js="() => ({__type__: 'update', selected: 'predict'})")


def results_tab(content: Content, tab: gr.Tab) -> None:
    """The metrics that evaluate.py wrote, and the ROC curves, which are drawn when the tab is opened."""
    say, valid = content.say, content.valid
    known = set(content.results["model"])
    for title, name in content.names():
        if name not in known:
            gr.HTML(notice(say("no_results", model=title), "hint"), elem_classes="page")
    with gr.Row(equal_height=False):
        if known:
            with gr.Column(scale=8, min_width=560):
                gr.HTML(results(say, content.results, content.models, content.classes), elem_classes="page")
        if valid:
            with gr.Column(scale=4, min_width=320):
                dark, plot = gr.Checkbox(visible=False), gr.Plot(show_label=False, elem_id="roc-plot")
            curves = {name: roc_points(valid.images.labels, rows) for name, rows in valid.probabilities.items()}
            tab.select(lambda dark: roc_figure(curves, content.classes, dark, say), dark, plot, js=WITH_DARK, **EVENT)


def systems_tab(content: Content, table: pd.DataFrame, tab: gr.Tab) -> None:
    """The systems that ``studies.compare`` compared: a table, and a figure that is drawn when the tab is opened."""
    say = content.say
    gr.HTML(systems(say, table), elem_classes="page")
    dark, plot = gr.Checkbox(visible=False), gr.Plot(show_label=False, elem_id="systems-plot")
    tab.select(lambda dark: systems_figure(table, dark, say), dark, plot, js=WITH_DARK, **EVENT)


def curves_tab(content: Content, tab: gr.Tab) -> None:
    """Accuracy or loss over epochs, drawn when the tab is opened."""
    say = content.say
    histories = {model.name: model.history for model in content.models if model.history is not None}
    names = [(title, name) for title, name in content.names() if name in histories]
    for title, name in content.names():
        if name not in histories:
            gr.HTML(notice(say("no_history", model=title), "hint"), elem_classes="page")
    if not names:
        return
    with gr.Row():
        models = gr.CheckboxGroup(names, value=list(histories), label=say("models"), elem_id="curves-of")
        kinds = [(say(f"kind_{kind}"), kind) for kind in KINDS]
        kind = gr.Radio(kinds, value="accuracy", label=say("metric"), elem_id="kind")
    dark = gr.Checkbox(visible=False)
    plot = gr.Plot(show_label=False, elem_id="curves-plot")

    def draw(models: list[str], kind: str, dark: bool) -> Any:
        return curves_figure({model: histories[model] for model in histories if model in models}, kind, dark, say)

    for change in (tab.select, models.input, kind.input):
        change(draw, [models, kind, dark], plot, js=WITH_DARK, **EVENT)


def confusion_tab(content: Content, tab: gr.Tab) -> None:
    """A confusion matrix for each model, drawn when the tab is opened."""
    valid, names, say = content.valid, content.names(), content.say
    if not valid:
        gr.HTML(notice(say("no_matrices", why=content.why), "hint"), elem_classes="page")
        return
    with gr.Row():
        models = gr.CheckboxGroup(names, value=[name for _, name in names], label=say("models"), elem_id="matrices-of")
        kinds = [(say("colour_all"), False), (say("colour_errors"), True)]
        errors = gr.Radio(kinds, value=False, label=say("colour_by"), elem_id="errors")
    dark = gr.Checkbox(visible=False)
    with gr.Row():
        plots = [gr.Plot(show_label=False, min_width=300, elem_classes="matrix") for _ in names]

    matrices = {name: valid.matrix(name) for _, name in names}

    def draw(models: list[str], errors: bool, dark: bool) -> list[Any]:
        top = max(float(coloured_shares(matrix, errors).max()) for matrix in matrices.values())
        return [
            gr.Plot(confusion_figure(matrix, content.classes, model, errors, dark, top, say), visible=True)
            if model in models
            else gr.Plot(visible=False)
            for model, matrix in matrices.items()
        ]

    for change in (tab.select, models.input, errors.input):
        change(draw, [models, errors, dark], plots, js=WITH_DARK, **EVENT)
