"""The page in a real browser, headless Chromium driven by Playwright.

Skipped, with the reason, if Chromium is not installed (Debian: apt-get install chromium).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.page.answers import MAX_BYTES
from tests.made import VALID, Patch, cell
from tests.made_page import Served, made_page, make_content, save_staged, served

pytest.importorskip("playwright", reason="needs the package playwright (requirements-dev.txt)")
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

pytestmark = pytest.mark.filterwarnings(r"ignore:.*(silent_downcasting|copy keyword)")  # Gradio's use of pandas
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 120_000  # ms; a busy machine may take long, and no test is about speed


@dataclass
class Visit:
    """An open page, with its requests to other hosts and its errors in ``faults``."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def tab(self, name: str) -> None:
        """Open a tab; on a narrow screen it may be in a menu."""
        tab = self.page.get_by_role("tab", name=name)
        for _ in range(PATIENCE // 2000):  # while the page is laid out, neither may be there, or the menu for a moment
            if tab.is_visible():
                break
            with suppress(TimeoutError):
                self.page.locator(".overflow-menu > button").click(timeout=2000)
                tab = self.page.locator(".overflow-dropdown").get_by_text(name)
                break
        tab.click()

    def upload(self, path: Path) -> None:
        """Upload a file."""
        self.page.locator("#upload input[type=file]").set_input_files(path)

    def clear(self) -> None:
        """Remove the uploaded file."""
        upload = self.page.locator("#upload")
        upload.get_by_label("Clear").or_(upload.locator("[aria-label='Remove']")).first.click()
        self.page.locator("#answer .hint").wait_for()


Open = Callable[..., Visit]  # the fixture visit


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


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens an address; at the end of the test, no visit has sent a request to another host or logged an error."""
    visits = []

    def open_page(address: str, dark: bool = False, width: int = 1280) -> Visit:
        scheme, size = "dark" if dark else "light", {"width": width, "height": 900}
        context = browser.new_context(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        made = Visit(context.new_page())
        own = (address + "/", "data:", "blob:")
        made.page.on("request", lambda sent: None if sent.url.startswith(own) else made.faults.append(sent.url))
        made.page.on("console", lambda line: made.faults.append(line.text) if line.type == "error" else None)
        made.page.on("pageerror", lambda error: made.faults.append(str(error)))
        made.page.goto(address)
        made.page.wait_for_selector("#depths .card")
        visits.append(made)
        return made

    yield open_page
    assert [made.faults for made in visits] == [[]] * len(visits)


def test_an_examiners_visit(page: Served, visit: Open, tmp_path: Path) -> None:
    visited = visit(page[0])
    window = visited.page
    # Three models, and their predictions for a first image.
    assert window.locator("#depths .card h2").all_inner_texts() == ["ResNet18", "ResNet50", "ResNet152"]
    assert window.locator("#answer .panel").count() == 3 and window.locator("#answer .heat img").count() == 3
    # An upload is predicted by three models, each with a heat map.
    Image.fromarray(cell(np.random.default_rng(1), 1)).save(tmp_path / "my cell.png")
    visited.upload(tmp_path / "my cell.png")
    window.locator("#answer").get_by_text("cell.png").wait_for()
    widths = window.locator("#answer .heat img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
    assert widths == [64, 64, 64]  # px: the stored window
    assert window.locator("#answer .bars li").count() == 6
    # Another layer is explained on request.
    window.locator("#stage").get_by_text("layer2").click()
    window.locator("#answer .legend").get_by_text("layer2").wait_for()
    # A bad upload is an error message, and the last prediction is removed.
    (tmp_path / "notes.txt").write_text("no image")
    visited.clear()
    visited.upload(tmp_path / "notes.txt")
    window.get_by_role("alert").get_by_text("not an image that Pillow can read").wait_for()
    assert window.locator("#answer .panel").count() == 0 and "Traceback" not in window.content()
    assert visited.faults == []
    window.screenshot(path=tmp_path / "upload.png", full_page=True)
    # A file that is too large is not sent.
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    visited.clear()
    visited.upload(tmp_path / "large.bmp")
    window.get_by_text("exceed the maximum allowed size").first.wait_for()
    visited.faults.clear()  # the browser logs the refusal


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
    window.locator("#answer").get_by_text(content.valid.images.ids[wrong[-1]]).wait_for()
    assert window.locator("#answer .panel.resnet50 .mark").inner_text() == "✗ wrong"


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
    visited.tab("Confusion matrices")
    window.locator(".matrix .heatmaplayer").nth(2).wait_for()
    text = window.locator(".matrix .xtick text").first.evaluate("one => getComputedStyle(one).fill")
    brightness = np.mean([int(part) for part in text.strip("rgb()").split(",")])
    assert (brightness > 180) if dark else (brightness < 80)
    window.screenshot(path=tmp_path / "matrices.png", full_page=True)


def test_a_narrow_screen_needs_no_horizontal_scrolling(page: Served, visit: Open) -> None:
    visited = visit(page[0], width=360)
    for name in ("Predict an image", "Valid images", "Curves", "Confusion matrices"):
        visited.tab(name)
        visited.page.wait_for_timeout(300)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_with_weights_alone_the_page_says_what_is_missing(visit: Open, tmp_path: Path, monkeypatch: Patch) -> None:
    names = ["<b>bold</b>", "{{value}} ${1+1} &amp;"]
    save_staged(tmp_path / "weights", ["resnet18"], classes=names)
    Image.fromarray(cell(np.random.default_rng(2), 1)).save(tmp_path / "cell.png")
    monkeypatch.chdir(tmp_path)
    with served(tmp_path, make_content(tmp_path, ["resnet18"], lists=False)) as address:
        visited = visit(address)
        window = visited.page
        assert window.locator("#depths .card").count() == 1
        visited.upload(tmp_path / "cell.png")
        window.locator("#answer .panel").wait_for()
        assert sorted(window.locator("#answer .bars li span").all_inner_texts()) == sorted(names)
        visited.tab("Valid images")
        window.get_by_text("No gallery: no lists found.").wait_for()
        assert visited.faults == []  # before the server stops
        window.close()
