"""The page's layout, made with Gradio: models, predictions for an image, gallery, curves, confusion matrices.

Defines the components and the function that each control calls; lab/page/answers.py computes, lab/page/server.py serves.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from lab.page.answers import MAX_BYTES, Chosen, Content, read_upload
from lab.page.figures import confusion_figure, curves_figure
from lab.page.html import CHOOSE, cards, header, notice
from models.catalog import find

ANY = "any"
# Options of every event. "private": the functions are not offered as an API. "always_last": of the clicks during a computation,
# the last one is answered next; Gradio's default is to drop them.
EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "trigger_mode": "always_last"}
# JavaScript that replaces the last input by whether the page shows the dark theme.
WITH_DARK = "(...inputs) => [...inputs.slice(0, -1), document.body.classList.contains('dark')]"


def build(content: Content) -> gr.Blocks:
    """The whole page."""
    images = len(content.valid.images) if content.valid else 0
    titles = [model.title for model in content.models]
    # Gradio deletes uploads and thumbnails when they are an hour old.
    with gr.Blocks(title=f"{content.data} · cells", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(header(content.data, content.classes, images, titles), elem_classes="page")
        gr.HTML(cards(content.models, content.hardware.device.type.upper()), elem_classes="page", elem_id="depths")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Predict an image", id="predict"):
                predict = PredictTab(content)
            with gr.Tab("Valid images", id="valid") as tab:
                gallery_tab(content, tab, tabs, predict)
            with gr.Tab("Curves", id="curves") as tab:
                curves_tab(content, tab)
            with gr.Tab("Confusion matrices", id="confusion") as tab:
                confusion_tab(content, tab)
    return page


class PredictTab:
    """The tab where an image is uploaded or picked. The first example is predicted before the page opens."""

    def __init__(self, content: Content) -> None:
        self.content = content
        examples = content.examples()
        first: Chosen = examples[0] if examples else None
        self.chosen = gr.State(first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=260):
                label = f"Image of a cell, up to {MAX_BYTES // 2**20} MiB"
                upload = gr.File(label=label, height=170, elem_id="upload")
            with gr.Column(scale=5, min_width=300):
                if examples:
                    title = "Examples from valid.csv: one of each class"
                    title += ", then images that the models predict differently" if len(content.models) > 1 else ""
                    thumbnails = content.thumbnails(examples, title=title)
                    picks = gr.HTML(thumbnails, js_on_load=CHOOSE, elem_id="examples", elem_classes="page")
                else:
                    gr.HTML(notice(f"No examples: {content.why}", "hint"), elem_classes="page")
        with gr.Row():
            labels = [("the predicted class", -1), *((name, label) for label, name in enumerate(content.classes))]
            self.label = gr.Dropdown(labels, value=-1, label="Heat map for", min_width=240, elem_id="explained")
            stages = dict.fromkeys(stage for model in content.models for stage in find(model.name).stages)
            choices = [("deepest with sufficient resolution", ""), *((stage, stage) for stage in stages)]
            self.stage = gr.Radio(choices, value="", label="Layer", min_width=300, elem_id="stage")
        self.answer = gr.HTML(content.answer(first), elem_id="answer", elem_classes="page")

        options, outputs = [self.label, self.stage], [self.chosen, self.answer]
        upload.upload(self.take, [upload, *options], outputs, **EVENT)
        upload.clear(lambda: (None, content.answer(None)), None, outputs, **EVENT)
        for change in (self.label.input, self.stage.input):
            change(content.answer, [self.chosen, *options], self.answer, **EVENT)
        if examples:
            picks.select(self.pick, [gr.State(examples), *options], outputs, **EVENT)

    def take(self, path: str | None, label: int, stage: str) -> tuple[Chosen, str]:
        """Predict an upload."""
        chosen = read_upload(path) if path else None
        return chosen, self.content.answer(chosen, label, stage)

    def pick(self, indices: list[int], label: int, stage: str, event: gr.SelectData) -> tuple[Chosen, str]:
        """Predict the picked image; ``indices`` are those of the images in the grid, and the browser sends a position in it."""
        valid = isinstance(event.index, int) and 0 <= event.index < len(indices)
        chosen = indices[event.index] if valid else None
        return chosen, self.content.answer(chosen, label, stage)


def gallery_tab(content: Content, tab: gr.Tab, tabs: gr.Tabs, predict: PredictTab) -> None:
    """The valid images, filtered, in pages; a click opens an image in the first tab."""
    valid, names = content.valid, content.names()
    if not valid:
        gr.HTML(notice(f"No gallery: {content.why}", "hint"), elem_classes="page")
        return
    with gr.Row():
        model = gr.Radio(names, value=names[0][1], label="Predictions of", min_width=280, elem_id="by")
        results = [("all", "all"), ("correct", "correct"), ("wrong", "wrong")]
        results += [("models differ", "differ")] if len(names) > 1 else []
        result = gr.Radio(results, value="all", label="Result", min_width=280, elem_id="result")
    with gr.Row():
        classes = [(ANY, -1), *((name, label) for label, name in enumerate(content.classes))]
        label = gr.Dropdown(classes, value=-1, label="True class", min_width=170, elem_id="class")
        pairs = [(ANY, ANY), *content.pairs(names[0][1])]
        pair = gr.Dropdown(pairs, value=ANY, label="Most confused pairs", min_width=220, elem_id="pair")
        orders = [
            ("as in the list", "list"),
            ("lowest confidence first", "least"),
            ("highest confidence first", "most"),
        ]
        order = gr.Dropdown(orders, value="list", label="Order", min_width=150, elem_id="order")
    with gr.Row():
        low = gr.Slider(0, 100, 0, step=1, label="Lowest confidence, %", min_width=240, elem_id="low")
        high = gr.Slider(0, 100, 100, step=1, label="Highest confidence, %", min_width=240, elem_id="high")
    gallery = gr.HTML(js_on_load=CHOOSE, elem_id="gallery", elem_classes="page")
    with gr.Row():
        previous = gr.Button("‹ Previous", size="sm", min_width=90, elem_id="back")
        count = gr.HTML(elem_classes=["page", "counts"], elem_id="counts")
        following = gr.Button("Next ›", size="sm", min_width=90, elem_id="on")
    indices, number = gr.State([]), gr.State(0)
    filters = [model, label, result, low, high, pair, order]
    outputs = [gallery, indices, number, count]

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
        choices = [(ANY, ANY), *content.pairs(model)]
        return gr.Dropdown(choices, value=ANY), *show(0, model, label, result, low, high, ANY, order)

    tab.select(show, [number, *filters], outputs, **EVENT)
    model.input(change_model, filters, [pair, *outputs], **EVENT)
    for change in (label.input, result.input, pair.input, order.input, low.release, high.release):
        change(lambda *values: show(0, *values), filters, outputs, **EVENT)
    previous.click(lambda page, *values: show(page - 1, *values), [number, *filters], outputs, **EVENT)
    following.click(lambda page, *values: show(page + 1, *values), [number, *filters], outputs, **EVENT)
    gallery.select(lambda: gr.Tabs(selected="predict"), None, tabs, **EVENT)
    gallery.select(predict.pick, [indices, predict.label, predict.stage], [predict.chosen, predict.answer], **EVENT)


def curves_tab(content: Content, tab: gr.Tab) -> None:
    """Accuracy or loss over epochs, drawn when the tab is opened."""
    histories = {model.name: model.history for model in content.models if model.history is not None}
    names = [(title, name) for title, name in content.names() if name in histories]
    for title, name in content.names():
        if name not in histories:
            text = f"{title}: no history in its checkpoint or in the report folder."
            gr.HTML(notice(text, "hint"), elem_classes="page")
    if not names:
        return
    with gr.Row():
        models = gr.CheckboxGroup(names, value=list(histories), label="Models", elem_id="curves-of")
        kind = gr.Radio(["accuracy", "loss"], value="accuracy", label="Metric", elem_id="kind")
    dark = gr.Checkbox(visible=False)
    plot = gr.Plot(show_label=False, elem_id="curves-plot")

    def draw(models: list[str], kind: str, dark: bool) -> Any:
        return curves_figure({model: histories[model] for model in histories if model in models}, kind, dark)

    for change in (tab.select, models.input, kind.input):
        change(draw, [models, kind, dark], plot, js=WITH_DARK, **EVENT)


def confusion_tab(content: Content, tab: gr.Tab) -> None:
    """A confusion matrix for each model, drawn when the tab is opened."""
    valid, names = content.valid, content.names()
    if not valid:
        gr.HTML(notice(f"No confusion matrices: {content.why}", "hint"), elem_classes="page")
        return
    with gr.Row():
        models = gr.CheckboxGroup(names, value=[name for _, name in names], label="Models", elem_id="matrices-of")
        kinds = [("all images", False), ("errors only", True)]
        errors = gr.Radio(kinds, value=False, label="Colour by", elem_id="errors")
    dark = gr.Checkbox(visible=False)
    with gr.Row():
        plots = [gr.Plot(show_label=False, min_width=300, elem_classes="matrix") for _ in names]

    def draw(models: list[str], errors: bool, dark: bool) -> list[Any]:
        return [
            gr.Plot(confusion_figure(valid.matrix(model), content.classes, model, bool(errors), dark), visible=True)
            if model in models
            else gr.Plot(visible=False)
            for _, model in names
        ]

    for change in (tab.select, models.input, errors.input):
        change(draw, [models, errors, dark], plots, js=WITH_DARK, **EVENT)
