"""The page's layout, made with Gradio: models side by side, answers to an image, gallery, curves, confusion matrices.

Only layout, and what each control does; lab/page/answers.py answers, lab/page/server.py serves it.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from lab.page.answers import BYTES, Chosen, Exhibit, read_upload
from lab.page.figures import confusion_figure, curves_figure
from lab.page.html import CHOOSE, cards, header, notice
from models.catalog import find

ANY = "any"
# The page is the only client: its functions are no programming interface. Whoever clicks on while an answer is under way gets
# that of the last click next; Gradio would forget it. The last input is whether the page is dark.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "trigger_mode": "always_last"}
WITH_DARK = "(...given) => [...given.slice(0, -1), document.body.classList.contains('dark')]"


def build(exhibit: Exhibit) -> gr.Blocks:
    """The whole page."""
    images = len(exhibit.valid.images) if exhibit.valid else 0
    # Uploads and thumbnails are taken away when they are an hour old.
    with gr.Blocks(
        title=f"{exhibit.data} · residual networks", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        gr.HTML(header(exhibit.data, exhibit.classes, images), elem_classes="page")
        gr.HTML(cards(exhibit.depths, exhibit.hardware.device.type.upper()), elem_classes="page", elem_id="depths")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Look at an image", id="look"):
                look = LookTab(exhibit)
            with gr.Tab("Valid images", id="valid") as tab:
                if exhibit.valid:
                    gallery_tab(exhibit, tab, tabs, look)
                else:
                    gr.HTML(notice(f"There is no gallery, since {exhibit.why}", "hint"), elem_classes="page")
            with gr.Tab("Curves", id="curves") as tab:
                curves_tab(exhibit, tab)
            with gr.Tab("Confusion matrices", id="confusion") as tab:
                confusion_tab(exhibit, tab)
    return page


class LookTab:
    """Where an image is dropped or picked, and answered. The first one is answered before the page opens."""

    def __init__(self, exhibit: Exhibit) -> None:
        self.exhibit = exhibit
        examples = exhibit.examples()
        first: Chosen = examples[0] if examples else None
        self.chosen = gr.State(first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=260):
                upload = gr.File(label=f"An image of a cell, to {BYTES // 2**20} MiB", height=170, elem_id="upload")
            with gr.Column(scale=5, min_width=300):
                if examples:
                    words = "or pick one of valid.csv: one of each class"
                    words += ", then some on which the depths differ" if len(exhibit.depths) > 1 else ""
                    thumbnails = exhibit.thumbnails(examples, title=words)
                    picks = gr.HTML(thumbnails, js_on_load=CHOOSE, elem_id="examples", elem_classes="page")
                else:
                    gr.HTML(notice(f"No images to pick from, since {exhibit.why}", "hint"), elem_classes="page")
        with gr.Row():
            choices = [("what each depth answers", -1), *((name, label) for label, name in enumerate(exhibit.classes))]
            self.explained = gr.Dropdown(choices, value=-1, label="Heat map of", min_width=240, elem_id="explained")
            stages = dict.fromkeys(stage for depth in exhibit.depths for stage in find(depth.model).stages)
            stage_names = [("the last stage that tells where", ""), *((stage, stage) for stage in stages)]
            self.stage = gr.Radio(stage_names, value="", label="as seen by", min_width=300, elem_id="stage")
        self.answer = gr.HTML(exhibit.answer(first), elem_id="answer", elem_classes="page")

        asked = [self.explained, self.stage]
        upload.upload(self.take, [upload, *asked], [self.chosen, self.answer], **PRIVATE)
        upload.clear(lambda: (None, exhibit.answer(None)), None, [self.chosen, self.answer], **PRIVATE)
        for control in (self.explained, self.stage):
            control.input(exhibit.answer, [self.chosen, *asked], self.answer, **PRIVATE)
        if examples:
            listed = gr.State(examples)
            picks.select(self.pick, [listed, *asked], [self.chosen, self.answer], **PRIVATE)

    def take(self, path: str | None, explained: int, stage: str) -> tuple[Chosen, str]:
        """Answer an upload."""
        chosen = read_upload(path) if path else None
        return chosen, self.exhibit.answer(chosen, explained, stage)

    def pick(self, listed: list[int], explained: int, stage: str, event: gr.SelectData) -> tuple[Chosen, str]:
        """Answer the image picked of those listed; what the browser sends is only a place in that list."""
        chosen = listed[event.index] if isinstance(event.index, int) and 0 <= event.index < len(listed) else None
        return chosen, self.exhibit.answer(chosen, explained, stage)


def gallery_tab(exhibit: Exhibit, tab: gr.Tab, tabs: gr.Tabs, look: LookTab) -> None:
    """The valid images, filtered, a page at a time; a click takes one to the first tab."""
    valid, names = exhibit.valid, exhibit.names()
    assert valid
    with gr.Row():
        model = gr.Radio(names, value=names[0][1], label="As answered by", min_width=280, elem_id="by")
        results = [("all", "all"), ("right", "right"), ("wrong", "wrong")]
        results += [("depths differ", "differ")] if len(names) > 1 else []
        result = gr.Radio(results, value="all", label="Result", min_width=280, elem_id="result")
    with gr.Row():
        classes = [(ANY, -1), *((name, label) for label, name in enumerate(exhibit.classes))]
        label = gr.Dropdown(classes, value=-1, label="True class", min_width=170, elem_id="class")
        pairs = [(ANY, ANY), *exhibit.pairs(names[0][1])]
        pair = gr.Dropdown(pairs, value=ANY, label="Most confused pairs", min_width=220, elem_id="pair")
        orders = [("as in the list", "list"), ("least sure first", "least"), ("surest first", "most")]
        order = gr.Dropdown(orders, value="list", label="Order", min_width=150, elem_id="order")
    with gr.Row():
        low = gr.Slider(0, 100, 0, step=1, label="Confidence from, %", min_width=240, elem_id="low")
        high = gr.Slider(0, 100, 100, step=1, label="Confidence to, %", min_width=240, elem_id="high")
    gallery = gr.HTML(js_on_load=CHOOSE, elem_id="gallery", elem_classes="page")
    with gr.Row():
        back = gr.Button("‹ Previous", size="sm", min_width=90, elem_id="back")
        counts = gr.HTML(elem_classes=["page", "counts"], elem_id="counts")
        on = gr.Button("Next ›", size="sm", min_width=90, elem_id="on")
    listed, number = gr.State([]), gr.State(0)
    filters = [model, label, result, low, high, pair, order]
    shown = [gallery, listed, number, counts]

    def turn(
        page: int, model: str, label: int, result: str, low: float, high: float, pair: str, order: str
    ) -> tuple[Any, ...]:
        both = None if pair == ANY else (int(pair.split(">")[0]), int(pair.split(">")[1]))
        found = valid.choose(model, None if label < 0 else label, result, low / 100, high / 100, both, order)
        return exhibit.gallery(found, page, model)

    def other_model(*given: Any) -> tuple[Any, ...]:
        """Another depth confuses other pairs."""
        model, label, result, low, high, _, order = given
        choices = [(ANY, ANY), *exhibit.pairs(model)]
        return gr.Dropdown(choices, value=ANY), *turn(0, model, label, result, low, high, ANY, order)

    tab.select(turn, [number, *filters], shown, **PRIVATE)
    model.input(other_model, filters, [pair, *shown], **PRIVATE)
    for control in (label, result, pair, order):
        control.input(lambda *given: turn(0, *given), filters, shown, **PRIVATE)
    for slider in (low, high):
        slider.release(lambda *given: turn(0, *given), filters, shown, **PRIVATE)
    back.click(lambda page, *given: turn(page - 1, *given), [number, *filters], shown, **PRIVATE)
    on.click(lambda page, *given: turn(page + 1, *given), [number, *filters], shown, **PRIVATE)
    asked = [listed, look.explained, look.stage]
    gallery.select(lambda: gr.Tabs(selected="look"), None, tabs, **PRIVATE)
    gallery.select(look.pick, asked, [look.chosen, look.answer], **PRIVATE)


def curves_tab(exhibit: Exhibit, tab: gr.Tab) -> None:
    """Accuracy or loss over epochs, drawn when the tab is opened."""
    histories = {depth.model: depth.history for depth in exhibit.depths if depth.history is not None}
    names = [name for name in exhibit.names() if name[1] in histories]
    for depth in exhibit.depths:
        if depth.model not in histories:
            words = f"{find(depth.model).title}: its checkpoint holds no history, and the report folder none either."
            gr.HTML(notice(words, "hint"), elem_classes="page")
    if not names:
        return
    with gr.Row():
        models = gr.CheckboxGroup(names, value=[model for _, model in names], label="Depths", elem_id="curves-of")
        kind = gr.Radio(["accuracy", "loss"], value="accuracy", label="What", elem_id="kind")
    dark = gr.Checkbox(visible=False)
    plot = gr.Plot(show_label=False, elem_id="curves-plot")

    def draw(models: list[str], kind: str, dark: bool) -> Any:
        return curves_figure({model: histories[model] for model in histories if model in models}, kind, dark)

    given = [models, kind, dark]
    tab.select(draw, given, plot, js=WITH_DARK, **PRIVATE)
    for control in (models, kind):
        control.input(draw, given, plot, js=WITH_DARK, **PRIVATE)


def confusion_tab(exhibit: Exhibit, tab: gr.Tab) -> None:
    """A confusion matrix per depth, drawn when the tab is opened."""
    valid, names = exhibit.valid, exhibit.names()
    if not valid:
        gr.HTML(notice(f"There are no confusion matrices, since {exhibit.why}", "hint"), elem_classes="page")
        return
    with gr.Row():
        models = gr.CheckboxGroup(names, value=[model for _, model in names], label="Depths", elem_id="matrices-of")
        kinds = [("all images", False), ("errors only", True)]
        errors = gr.Radio(kinds, value=False, label="Colour by", elem_id="errors")
    dark = gr.Checkbox(visible=False)
    with gr.Row():
        plots = [gr.Plot(show_label=False, min_width=300, elem_classes="matrix") for _ in names]

    def draw(models: list[str], errors: bool, dark: bool) -> list[Any]:
        return [
            gr.Plot(confusion_figure(valid.matrix(model), exhibit.classes, model, bool(errors), dark), visible=True)
            if model in models
            else gr.Plot(visible=False)
            for _, model in names
        ]

    given = [models, errors, dark]
    tab.select(draw, given, plots, js=WITH_DARK, **PRIVATE)
    for control in (models, errors):
        control.input(draw, given, plots, js=WITH_DARK, **PRIVATE)
