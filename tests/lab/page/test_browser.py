"""The page in a real browser, headless Chromium driven by Playwright.

Skipped, with the reason, if Chromium is not installed (Debian: apt-get install chromium).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.page import answers
from lab.page.answers import MAX_BYTES, MAX_UPLOADS
from lab.page.networks import Prediction, predict_and_explain
from lab.page.texts import TEXTS
from tests.made import VALID, Patch, cell, inside
from tests.made_page import Served, made_page, make_content, save_staged, served, staged

pytest.importorskip("playwright", reason="needs the package playwright (requirements-dev.txt)")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, TimeoutError, sync_playwright

pytestmark = pytest.mark.filterwarnings(r"ignore:.*(silent_downcasting|copy keyword)")  # Gradio's use of pandas
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 120_000  # ms; a busy machine may take long, and no test is about speed
# JavaScript: gives the page a file; the image that the answer is about.
GIVE = """const give = ([how, name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  const about = {bubbles: true, cancelable: true};
  document.body.dispatchEvent(how === 'drop' ? new DragEvent('drop', {...about, dataTransfer: data})
                                             : new ClipboardEvent('paste', {...about, clipboardData: data}));
};"""
TOP = "document.querySelector('#answer').getBoundingClientRect().top"
ANSWERED = "document.querySelector('#answer .verdict')?.textContent.split(':')[0]"


@dataclass
class Visit:
    """An open page, with its requests to other hosts and its errors in ``faults``."""

    page: Page
    faults: list[str] = field(default_factory=list)
    pending: list[Request] = field(default_factory=list)  # of predictions

    def tab(self, name: str) -> None:
        """Open a tab; on a narrow screen it may be in a menu."""
        tab = self.page.get_by_role("tab", name=name)
        for _ in range(PATIENCE // 2000):  # while the page is laid out, tabs move into the menu and out of it
            with suppress(TimeoutError):
                if not tab.is_visible():
                    self.page.locator(".overflow-menu > button").click(timeout=2000)
                    tab = self.page.locator(".overflow-dropdown").get_by_text(name)
                return tab.click(timeout=2000)
            tab = self.page.get_by_role("tab", name=name)
        raise TimeoutError(f"no tab {name}")

    def upload(self, *paths: Path) -> None:
        """Choose files in the dialog."""
        self.page.locator("#upload input[type=file]").set_input_files(paths)

    def give(self, how: str, path: Path) -> None:
        """``drop`` or ``paste`` a file."""
        self.page.evaluate(f"{GIVE} give", [how, path.name, list(path.read_bytes())])

    def answered(self, name: str) -> None:
        """Wait for the answer to an image."""
        self.page.wait_for_function(f"name => {ANSWERED} === name", arg=name)

    def settled(self) -> None:
        """Wait until no prediction is under way or about to be asked for."""
        quiet = 0
        while quiet < 3:
            self.page.wait_for_timeout(50)
            quiet = 0 if self.pending else quiet + 1


Open = Callable[..., Visit]  # the fixture visit
BARE_CLASSES = ["immature <b>granulocyte</b> (promyelocyte)", "{{value}} ${1+1} &amp;"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium, which is not installed here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Served]:
    with made_page(tmp_path_factory.mktemp("browsed")) as made:
        yield made


@pytest.fixture(scope="module")
def english(browser: Browser) -> BrowserContext:
    """Shared by the visits, so that the page's scripts are loaded and compiled once."""
    return browser.new_context(locale="en")


@pytest.fixture
def visit(browser: Browser, english: BrowserContext) -> Iterator[Open]:
    """Opens an address; at the end of the test, no visit has sent a request to another host or logged an error."""
    visits = []

    def open_page(address: str, dark: bool = False, width: int = 1280, height: int = 900, locale: str = "") -> Visit:
        page = (browser.new_context(locale=locale) if locale else english).new_page()
        page.set_default_timeout(PATIENCE)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        made = Visit(page)
        own = (re.match(r"https?://[^/]*/", address + "/")[0], "data:", "blob:")  # type: ignore[index]
        page.on("request", lambda sent: None if sent.url.startswith(own) else made.faults.append(sent.url))
        page.on("request", lambda sent: made.pending.append(sent) if sent.url.endswith("/run/predict") else None)
        for ended in ("requestfinished", "requestfailed"):
            page.on(ended, lambda sent: made.pending.remove(sent) if sent in made.pending else None)
        page.on("console", lambda line: made.faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: made.faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#depths .card")
        visits.append(made)
        return made

    yield open_page
    for made in visits:
        made.page.close()
    assert [made.faults for made in visits] == [[]] * len(visits)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, page: Served) -> Iterator[str]:
    """The address of a page of weights alone, without lists. The names of the classes are long, and would be markup and templates
    if they were not escaped."""
    folder = tmp_path_factory.mktemp("bare")
    save_staged(folder / "weights", classes=BARE_CLASSES)
    # Gradio takes uploads from one folder in a process.
    with (
        inside(folder, staged),
        served(Path(os.environ["GRADIO_TEMP_DIR"]), make_content(folder, lists=False)) as address,
    ):
        yield address


def test_an_examiners_visit(page: Served, visit: Open, tmp_path: Path) -> None:
    visited = visit(page[0])
    window = visited.page
    # Three models, and their predictions for a first image.
    assert window.locator("#depths .card h2").all_inner_texts() == ["ResNet18", "ResNet50", "ResNet152"]
    assert window.locator("#answer .panel").count() == 3 and window.locator("#answer .heat img").count() == 3
    # An upload is predicted by three models, each with a heat map.
    Image.fromarray(cell(np.random.default_rng(1), 1)).save(tmp_path / "my cell.png")
    visited.upload(tmp_path / "my cell.png")
    visited.answered("my cell.png")
    widths = window.locator("#answer .heat img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
    assert widths == [64, 64, 64]  # px: the stored window
    assert window.locator("#answer .bars li").count() == 6
    # Another layer is explained on request.
    window.locator("#stage").get_by_text("layer2").click()
    window.locator("#answer .legend").get_by_text("layer2").wait_for()
    # A bad upload is an error message, and the last prediction is removed.
    (tmp_path / "notes.txt").write_text("no image")
    visited.upload(tmp_path / "notes.txt")
    window.get_by_role("alert").get_by_text("not an image that Pillow can read").wait_for()
    assert window.locator("#answer .panel").count() == 0 and "Traceback" not in window.content()
    assert visited.faults == []
    window.screenshot(path=tmp_path / "upload.png", full_page=True)
    # A file that is too large is not sent.
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    visited.upload(tmp_path / "large.bmp")
    window.get_by_role("status").get_by_text("large.bmp: larger than 16 MiB, so nothing was sent.").wait_for()


STEPS = """async ([grid, gap, steps, ...file]) => {
  %s
  for (const [number, step] of steps.entries()) {
    if (number) await new Promise(done => setTimeout(done, gap));
    if (step === 'drop') give(['drop', ...file]);
    else document.querySelectorAll(`#${grid} [data-index]`)[step].click();
  }
}"""


@pytest.mark.parametrize("grid", ["examples", "gallery"])
def test_the_answer_is_that_of_the_last_choice(
    page: Served, visit: Open, tmp_path: Path, monkeypatch: Patch, grid: str
) -> None:
    """After quick clicks, with a dropped file in between or at the end, the answer is about the image that is highlighted."""

    def slowly(*args: Any) -> Prediction:
        time.sleep(0.15)  # three models: half a second for an answer
        return predict_and_explain(*args)

    address, content = page
    assert content.valid
    monkeypatch.setattr(answers, "predict_and_explain", slowly)
    Image.fromarray(cell(np.random.default_rng(7), 1)).save(tmp_path / "dropped.png")
    file = ["dropped.png", list((tmp_path / "dropped.png").read_bytes())]
    visited = visit(address)
    window = visited.page
    if grid == "gallery":
        visited.tab("Valid images")
    window.locator(f"#{grid} [data-index]").nth(3).wait_for()
    indices = content.examples() if grid == "examples" else list(range(VALID))
    for gap in (0, 50, 200, 600):
        for steps in ([0, 1, "drop", 2, 3], [1, 0], [2, "drop", 0], [3, 2, "drop"]):
            window.evaluate(STEPS % GIVE, [grid, gap, steps, *file])
            last = steps[-1]
            index = indices[last] if isinstance(last, int) else None
            visited.answered("dropped.png" if index is None else content.valid.images.ids[index])
            visited.settled()  # no late answer replaces it
            visited.answered("dropped.png" if index is None else content.valid.images.ids[index])
            chosen = window.locator(f"#{grid} .chosen").evaluate_all("all => all.map(one => Number(one.dataset.index))")
            assert chosen == ([] if index is None else [index]), (gap, steps)


def test_an_upload_replaces_the_one_before(page: Served, visit: Open, tmp_path: Path) -> None:
    visited = visit(page[0])
    for number, how in enumerate(("choose", "drop", "paste", "choose", "drop")):
        path = tmp_path / f"{how} {number}.png"
        Image.fromarray(cell(np.random.default_rng(number), 1)).save(path)
        if how == "choose":
            visited.upload(path)
        else:
            visited.give(how, path)
        visited.answered(path.name)
    visited.page.locator("#examples button").first.click()
    visited.upload(tmp_path / "choose 3.png")  # the same file again
    visited.answered("choose 3.png")
    accept = visited.page.locator("#upload input[type=file]").get_attribute("accept") or ""
    assert accept.startswith("image/*")


def test_the_gallery_filters_and_a_click_predicts(page: Served, visit: Open, tmp_path: Path) -> None:
    address, content = page
    assert content.valid
    visited = visit(address)
    window = visited.page
    visited.tab("Valid images")
    window.locator("#gallery img").first.wait_for()
    assert window.locator("#gallery img").count() == VALID
    wrong = content.valid.choose("resnet50", result="wrong")
    assert 0 < len(wrong) < VALID
    window.locator("#by").get_by_text("ResNet50").click()
    window.locator("#result").get_by_text("wrong").click()
    window.locator("#counts").get_by_text(f"1–{len(wrong)} of {len(wrong)} images, filtered from {VALID}").wait_for()
    captions = window.locator("#gallery button").all_inner_texts()
    assert len(captions) == len(wrong) and all("✗" in caption for caption in captions)
    window.screenshot(path=tmp_path / "gallery.png", full_page=True)
    window.locator("#gallery button").last.click()
    visited.answered(content.valid.images.ids[wrong[-1]])
    assert window.locator("#answer .panel.resnet50 .mark").inner_text() == "✗ wrong"
    visited.tab("Valid images")  # and once more
    window.locator("#gallery button").first.click()
    visited.answered(content.valid.images.ids[wrong[0]])
    assert window.locator("#examples").is_visible()


@pytest.mark.parametrize("dark", [False, True])
def test_figures_have_the_colours_of_the_theme(page: Served, visit: Open, tmp_path: Path, dark: bool) -> None:
    visited = visit(page[0], dark)
    window = visited.page
    visited.tab("Curves")
    window.locator("#curves-plot .scatterlayer .trace").first.wait_for()
    assert window.locator("#curves-plot .scatterlayer .trace").count() == 9  # three models: training, valid, best
    label = window.locator("#curves-plot .hoverlayer").get_by_text("ResNet50, valid : 80.00 %")
    for number in range(PATIENCE // 200):  # on a busy machine the figure may still move away from under the mouse
        plane = window.locator("#curves-plot .nsewdrag").first.bounding_box()
        assert plane
        x, y = plane["x"] + plane["width"] / 2 + 5 * (number % 2), plane["y"] + plane["height"] / 2
        window.mouse.move(x, y)  # the middle, which is epoch 2
        window.wait_for_timeout(200)
        if label.count():
            break
    assert "Epoch 2" in (window.locator("#curves-plot .hoverlayer").text_content() or "")
    for name, traces in (("ResNet18", 6), ("ResNet50", 3)):
        window.locator("#curves-of").get_by_text(name).click()
        window.wait_for_function(f"document.querySelectorAll('#curves-plot .scatterlayer .trace').length == {traces}")
    line = window.locator("#curves-plot .scatterlayer .trace path.js-line").first.get_attribute("style") or ""
    assert ("rgb(242, 242, 242)" if dark else "rgb(0, 0, 0)") in line
    window.screenshot(path=tmp_path / "curves.png", full_page=True)
    visited.tab("Results")
    window.locator("#roc-plot .scatterlayer .trace").nth(3).wait_for()  # three models and the diagonal
    visited.tab("Confusion matrices")
    window.locator(".matrix .heatmaplayer").nth(2).wait_for()
    text = window.locator(".matrix .xtick text").first.evaluate("one => getComputedStyle(one).fill")
    brightness = np.mean([int(part) for part in text.strip("rgb()").split(",")])
    assert (brightness > 180) if dark else (brightness < 80)
    window.screenshot(path=tmp_path / "matrices.png", full_page=True)


def test_several_uploads_give_a_table_and_predictions_are_saved(page: Served, visit: Open, tmp_path: Path) -> None:
    visited = visit(page[0])
    window = visited.page
    paths = [tmp_path / f"cell {number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(cell(np.random.default_rng(number), number % 2)).save(path)
    visited.upload(*paths)
    visited.answered("3 images")
    assert window.locator("#answer tbody th").all_inner_texts() == [path.name for path in paths]
    assert saved_by(window, "CSV", tmp_path).read_text().count("resnet50") == 3
    visited.upload(paths[0])
    visited.answered("cell 0.png")
    assert saved_by(window, "CSV", tmp_path).read_text().count("cell 0.png") == 3
    with Image.open(saved_by(window, "Save the heat map of ResNet50", tmp_path)) as heat:
        assert heat.format == "PNG" and heat.size == (64, 64)
    visited.upload(*[paths[0]] * (MAX_UPLOADS + 1))
    window.get_by_role("status").get_by_text("101 images are too many").wait_for()


def saved_by(window: Page, link: str, folder: Path) -> Path:
    """The file that a link of the answer saves."""
    with window.expect_download() as download:
        window.locator("#answer").get_by_role("link", name=link).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_arrow_keys_move_through_the_examples_and_the_choice_is_said(page: Served, visit: Open) -> None:
    visited = visit(page[0])
    window = visited.page
    buttons = window.locator("#examples button")
    focused = "[...document.querySelectorAll('#examples button')].indexOf(document.activeElement)"
    buttons.first.focus()
    places = []
    for key in (
        "ArrowLeft",
        "ArrowRight",
        "End",
        "ArrowRight",
        "Home",
        "ArrowDown",
        "ArrowUp",
        "ArrowUp",
        "ArrowRight",
    ):
        window.keyboard.press(key)
        places.append(window.evaluate(focused))
    across = window.locator("#examples .grid").evaluate(
        "one => getComputedStyle(one).gridTemplateColumns.split(' ').length"
    )
    last = buttons.count() - 1
    assert places == [0, 1, last, last, 0, across if across <= last else 0, 0, 0, 1]
    window.keyboard.press("Enter")
    content = page[1]
    assert content.valid
    visited.answered(content.valid.images.ids[content.examples()[1]])
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert buttons.first.get_attribute("aria-pressed") == "false"


def test_the_answer_stands_beside_the_examples_and_above_the_fold(page: Served, visit: Open) -> None:
    window = visit(page[0], width=1366, height=768).page
    answer = window.locator("#answer .panels").bounding_box()
    examples = window.locator("#examples").bounding_box()
    assert answer and examples and answer["x"] >= examples["x"] + examples["width"]
    assert answer["y"] + answer["height"] <= 768
    caution = window.get_by_text("Not for diagnosis.").bounding_box()
    assert caution and caution["y"] + caution["height"] <= 768


def test_on_a_phone_a_choice_scrolls_to_the_answer(page: Served, visit: Open) -> None:
    visited = visit(page[0], width=390, height=844)
    visited.page.wait_for_selector("#answer .panel")
    assert visited.page.evaluate(f"{TOP} > 400")
    for grid in ("examples", "gallery"):
        if grid == "gallery":
            visited.tab("Valid images")
        visited.page.locator(f"#{grid} button").last.click()
        visited.page.wait_for_function(f"{TOP} >= 0 && {TOP} < 100")


def test_no_name_and_no_number_is_cut(bare: str, visit: Open, tmp_path: Path) -> None:
    Image.fromarray(cell(np.random.default_rng(2), 1)).save(tmp_path / "cell.png")
    visited = visit(bare)
    visited.upload(tmp_path / "cell.png")
    visited.answered("cell.png")
    for width in (390, 500, 768, 820, 1000, 1366):
        visited.page.set_viewport_size({"width": width, "height": 768})
        cut = visited.page.evaluate(
            """[...document.querySelectorAll('.card, .card *, .panel, .panel *, .verdict')]
            .filter(one => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline'
                           && !one.matches('i, b')).map(one => one.outerHTML)"""
        )
        assert cut == [], width
        tops = "selector => [...document.querySelectorAll(selector)].map(one => one.getBoundingClientRect().top)"
        if width >= 768:  # three cards and three panels beside each other, and their rows in line
            for selector in (".card", ".panel", ".card .big", ".card .facts", ".panel .pair", ".panel .bars"):
                assert len(set(map(round, visited.page.evaluate(tops, selector)))) == 1, (width, selector)


# What may stand in Latin letters on the Chinese page: names of models, metrics, layers, classes, data, files and formats, units,
# and a text that Gradio lacks in Chinese.
NAMES = r"EN|common\.complete|ResNet\d*|layer\d|leukemia blast|normal|tiny|\S*\.(png|csv)|Grad-CAM|D4"
NAMES += r"|logit|studies\.explain"
NAMES += "|AUC|ROC|(macro )?F1|McNemar|BMP|PNG|JPEG|TIFF|CSV|CPU|MiB|px|ms|nats|M"
# The texts that are seen, and those that are read out; but not Gradio's own of the latter, which are in English.
WORDS = """[document.title, document.body.innerText, ...[...document.querySelectorAll('.page *')]
  .flatMap(one => [one.ariaLabel, one.alt, one.title, one.placeholder])].join('\\n')"""


def test_the_chosen_image_is_explained(page: Served, visit: Open, tmp_path: Path) -> None:
    """The maps are those of the image of the first tab, of the model and for the class that are chosen."""
    address, content = page
    assert content.valid
    visited = visit(address)
    window, title = visited.page, "#maps .verdict"
    for number in (0, 1):
        visited.tab("Predict an image")
        window.locator("#examples button").nth(number).click()
        visited.answered(content.valid.images.ids[content.examples()[number]])
        visited.tab("Explanations")
        window.locator(title).get_by_text(content.valid.images.ids[content.examples()[number]]).wait_for()
    window.locator("#explained-by").get_by_text("ResNet152").click()
    window.locator(title).get_by_text("in ResNet152").wait_for()
    window.locator("#explained-class input").click()
    window.get_by_role("option", name="leukemia blast").click()
    window.locator(title).get_by_text("leukemia blast in ResNet152").wait_for()
    assert window.locator("#maps img").count() == 4
    window.screenshot(path=tmp_path / "explanations.png", full_page=True)


def test_the_page_in_chinese_shows_no_english_and_is_remembered(page: Served, visit: Open, tmp_path: Path) -> None:
    address, content = page
    assert content.valid
    visited = visit(address, locale="zh-TW")  # Gradio's own texts are in the browser's language
    window = visited.page
    window.wait_for_function("document.documentElement.lang === 'en'")
    window.get_by_role("link", name="中文").click()
    window.wait_for_function("document.documentElement.lang === 'zh-Hant-TW'")
    for name in ("預測影像", "解釋", "驗證影像", "評估結果", "學習曲線", "混淆矩陣"):
        visited.tab(name)
        if name == "預測影像":
            window.locator("#examples button").nth(1).click()
            window.wait_for_function(f"{ANSWERED} === '{content.valid.images.ids[content.examples()[1]]}'")
        if name == "解釋":
            window.locator("#maps img").nth(3).wait_for()
        if name == "驗證影像":
            window.locator("#gallery button").first.wait_for()  # its answer may come after that to a filter
            window.locator("#result").get_by_text("錯誤").click()
            window.locator("#counts").get_by_text("篩選").wait_for()
        figures = {"評估結果": "#roc-plot", "學習曲線": "#curves-plot", "混淆矩陣": ".matrix"}
        if name in figures:
            window.locator(f"{figures[name]} .xtitle").last.wait_for()
        left = re.findall(r"[A-Za-z]{2,}", re.sub(rf"(?<![A-Za-z])({NAMES})(?![A-Za-z])", "", window.evaluate(WORDS)))
        assert left == [], name
    (tmp_path / "notes.txt").write_text("no image")
    visited.tab("預測影像")
    visited.upload(tmp_path / "notes.txt")
    window.get_by_role("alert").get_by_text("不是可讀取的影像格式").wait_for()
    window.goto(address)
    window.wait_for_function("document.documentElement.lang === 'zh-Hant-TW'")
    window.get_by_role("link", name="EN", exact=True).click()
    window.wait_for_function("document.cookie.includes('language=en')")  # lang alone is en before page.js runs
    window.goto(address)
    window.wait_for_selector("#examples button")
    assert window.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize(("language", "dark"), [("en", False), ("zh", True)])
def test_axe_finds_no_violation(page: Served, visit: Open, tmp_path: Path, language: str, dark: bool) -> None:
    visited = visit(f"{page[0]}/{'' if language == 'en' else language}", dark, 1366, 768)
    for number, key in enumerate(("predict", "explain", "valid", "results", "systems", "curves", "confusion")):
        visited.tab(TEXTS[language](f"tab_{key}"))
        figures = {"valid": "#gallery img", "results": "#roc-plot .xtitle", "curves": "#curves-plot .xtitle"}
        figures |= {"systems": "#systems-plot .xtitle", "explain": "#maps img"}
        visited.page.locator(
            figures.get(key, ".matrix .xtitle" if key == "confusion" else "#answer .panel")
        ).last.wait_for()
        if number == 0:  # a table of uploads, too
            Image.fromarray(cell(np.random.default_rng(1), 1)).save(tmp_path / "cell.png")
            no_violation(visited)
            visited.upload(*[tmp_path / "cell.png"] * 2)
            visited.page.locator("#answer table").wait_for()
        no_violation(visited)


def no_violation(visited: Visit) -> None:
    """axe-core finds nothing; of the contrast, at least 4.5. While an answer is under way, Gradio shows the old one paler."""
    visited.settled()
    visited.page.wait_for_timeout(500)
    found = Axe().run(visited.page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


def test_a_narrow_screen_needs_no_horizontal_scrolling(page: Served, visit: Open) -> None:
    visited = visit(page[0], width=360)
    for name in (
        "Predict an image",
        "Explanations",
        "Valid images",
        "Results",
        "Systems",
        "Curves",
        "Confusion matrices",
    ):
        visited.tab(name)
        visited.page.wait_for_timeout(300)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_with_weights_alone_the_page_says_what_is_missing(bare: str, visit: Open, tmp_path: Path) -> None:
    Image.fromarray(cell(np.random.default_rng(2), 1)).save(tmp_path / "cell.png")
    visited = visit(bare)
    window = visited.page
    visited.upload(tmp_path / "cell.png")
    window.locator("#answer .panel").first.wait_for()
    names = window.locator("#answer .panel.resnet18 .bars li span").all_inner_texts()
    assert sorted(names) == sorted(BARE_CLASSES)
    visited.tab("Valid images")
    window.get_by_text("No gallery: no lists found.").wait_for()
    visited.tab("Results")
    window.get_by_text("ResNet152: no metrics of these weights. Run evaluate.py").wait_for()


def test_a_page_whose_server_stops_says_so_and_reloads_after_a_restart(
    page: Served, visit: Open, tmp_path: Path
) -> None:
    with served(tmp_path, page[1]) as address:
        visited = visit(address)
        window = visited.page
        window.evaluate("window.old = true")
        for _ in range(2):  # the page has asked which server it is
            window.wait_for_event("requestfinished", lambda sent: sent.url.endswith("/app_id"))
        assert not window.locator("#lost").is_visible()
    window.get_by_role("alert").get_by_text("The server has stopped").wait_for()
    with served(tmp_path, page[1], int(address.rsplit(":", 1)[1])):
        window.wait_for_function("!window.old && document.querySelector('#examples button')")
        window.locator("#examples button").nth(1).click()
        visited.answered(page[1].valid.images.ids[page[1].examples()[1]])  # type: ignore[union-attr]
        window.close()
    visited.faults.clear()  # of the time without a server
