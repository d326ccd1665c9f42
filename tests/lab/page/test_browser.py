"""The page in a real browser, headless Chromium driven by Playwright: what an examiner sees and does.

Skipped, with the reason, where no Chromium is installed (Debian: apt-get install chromium).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.page.answers import BYTES, Exhibit
from tests.made import VALID
from tests.made_page import exhibit, made_page, random_image, save_staged, served

pytest.importorskip("playwright", reason="needs the package playwright (requirements-dev.txt)")
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

pytestmark = pytest.mark.filterwarnings(r"ignore:.*(silent_downcasting|copy keyword)")  # Gradio's own, of pandas
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
PATIENCE = 120_000  # ms; a busy machine may take long, and no test is about speed


@dataclass
class Visit:
    """A page that is open, and all that went wrong or out of it."""

    page: Page
    address: str
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def tab(self, name: str) -> None:
        """Open a tab; on a narrow screen those without room are in a menu."""
        tab = self.page.get_by_role("tab", name=name)
        for _ in range(PATIENCE // 2000):  # until the page is laid out, neither may be there, or the menu for a moment
            if tab.is_visible():
                break
            with suppress(TimeoutError):
                self.page.locator(".overflow-menu > button").click(timeout=2000)
                tab = self.page.locator(".overflow-dropdown").get_by_text(name)
                break
        tab.click()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium, which is not installed here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[tuple[str, Exhibit]]:
    with made_page(tmp_path_factory.mktemp("browsed")) as made:
        yield made


def visit(browser: Browser, address: str, dark: bool = False, width: int = 1280) -> Visit:
    context = browser.new_context(color_scheme="dark" if dark else "light", viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    seen = Visit(context.new_page(), address)
    seen.page.on("request", lambda asked: note(seen.foreign, asked.url, address))
    seen.page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.goto(address)
    seen.page.wait_for_selector("#depths .card")
    return seen


def note(foreign: list[str], url: str, address: str) -> None:
    """Keep an address that is not the page's own."""
    if not url.startswith((address + "/", "data:", "blob:")):
        foreign.append(url)


def test_an_examiners_visit(page: tuple[str, Exhibit], browser: Browser, tmp_path: Path) -> None:
    address, shown = page
    assert shown.valid
    seen = visit(browser, address)
    window = seen.page
    # It opens: three depths, and a first image that they have answered.
    assert window.locator("#depths .card h2").all_inner_texts() == ["ResNet18", "ResNet50", "ResNet152"]
    assert window.locator("#answer .panel").count() == 3 and window.locator("#answer .heat img").count() == 3
    # An upload is answered by three depths, each with a heat map.
    Image.fromarray(random_image(1)).save(tmp_path / "my cell.png")
    window.locator("#upload input[type=file]").set_input_files(tmp_path / "my cell.png")
    window.locator("#answer").get_by_text("cell.png").wait_for()
    drawn = window.locator("#answer .heat img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
    assert drawn == [64, 64, 64]  # px: the window as stored
    assert window.locator("#answer .bars li").count() == 6
    # Another class is explained on request.
    window.locator("#stage").get_by_text("layer2").click()
    window.locator("#answer .legend").get_by_text("layer2").wait_for()
    # A bad upload gets a sentence, and no answer is left that might be taken for its own.
    (tmp_path / "notes.txt").write_text("no image")
    clear = window.locator("#upload").get_by_label("Clear").or_(window.locator("#upload [aria-label='Remove']")).first
    clear.click()
    window.locator("#answer .hint").wait_for()
    window.locator("#upload input[type=file]").set_input_files(tmp_path / "notes.txt")
    window.get_by_role("alert").get_by_text("not an image that Pillow can read").wait_for()
    assert window.locator("#answer .panel").count() == 0 and "Traceback" not in window.content()
    assert (seen.foreign, seen.errors) == ([], [])
    window.screenshot(path=tmp_path / "upload.png", full_page=True)
    # One that is too large is not even sent.
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(BYTES + 1)
    clear.click()
    window.locator("#answer .hint").wait_for()
    window.locator("#upload input[type=file]").set_input_files(tmp_path / "large.bmp")
    window.get_by_text("exceed the maximum allowed size").first.wait_for()


def test_the_gallery_is_filtered_and_an_image_of_it_looked_at(
    page: tuple[str, Exhibit], browser: Browser, tmp_path: Path
) -> None:
    address, shown = page
    assert shown.valid
    seen = visit(browser, address)
    window = seen.page
    seen.tab("Valid images")
    window.locator("#gallery img").first.wait_for()
    assert window.locator("#gallery img").count() == VALID
    wrong = shown.valid.choose("resnet50", result="wrong")
    assert 0 < len(wrong) < VALID
    window.locator("#by").get_by_text("ResNet50").click()
    window.locator("#result").get_by_text("wrong").click()
    window.locator("#counts").get_by_text(f"1–{len(wrong)} of {len(wrong)} images that fit, of {VALID}").wait_for()
    captions = window.locator("#gallery button").all_inner_texts()
    assert len(captions) == len(wrong) and all("✗" in caption for caption in captions)
    window.screenshot(path=tmp_path / "gallery.png", full_page=True)
    window.locator("#gallery button").last.click()
    window.locator("#answer").get_by_text(shown.valid.images.ids[wrong[-1]]).wait_for()
    assert window.locator("#answer .panel.resnet50 .mark").inner_text() == "✗ wrong"
    assert (seen.foreign, seen.errors) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
def test_curves_and_matrices_are_drawn_in_the_pages_colours(
    page: tuple[str, Exhibit], browser: Browser, tmp_path: Path, dark: bool
) -> None:
    seen = visit(browser, page[0], dark)
    window = seen.page
    seen.tab("Curves")
    window.locator("#curves-plot .scatterlayer .trace").first.wait_for()
    assert window.locator("#curves-plot .scatterlayer .trace").count() == 9  # three depths: training, valid, best
    told = window.locator("#curves-plot .hoverlayer").get_by_text("ResNet50, valid : 80.00 %")
    for number in range(PATIENCE // 200):  # on a busy machine the page may still move away from under the mouse
        plane = window.locator("#curves-plot .nsewdrag").first.bounding_box()
        assert plane
        x, y = plane["x"] + plane["width"] / 2 + 5 * (number % 2), plane["y"] + plane["height"] / 2
        window.mouse.move(x, y)  # it comes to rest over the middle, which is epoch 2
        window.wait_for_timeout(200)
        if told.count():
            break
    assert "Epoch 2" in (window.locator("#curves-plot .hoverlayer").text_content() or "")
    for name, traces in (("ResNet18", 6), ("ResNet50", 3)):
        window.locator("#curves-of").get_by_text(name).click()
        window.wait_for_function(f"document.querySelectorAll('#curves-plot .scatterlayer .trace').length == {traces}")
    line = window.locator("#curves-plot .scatterlayer .trace path.js-line").first.get_attribute("style") or ""
    assert ("rgb(242, 242, 242)" if dark else "rgb(0, 0, 0)") in line
    window.screenshot(path=tmp_path / "curves.png", full_page=True)
    seen.tab("Confusion matrices")
    window.locator(".matrix .heatmaplayer").nth(2).wait_for()
    text = window.locator(".matrix .xtick text").first.evaluate("one => getComputedStyle(one).fill")
    brightness = np.mean([int(part) for part in text.strip("rgb()").split(",")])
    assert (brightness > 180) if dark else (brightness < 80)
    window.screenshot(path=tmp_path / "matrices.png", full_page=True)
    assert (seen.foreign, seen.errors) == ([], [])


def test_on_a_narrow_screen_nothing_leaves_it(page: tuple[str, Exhibit], browser: Browser) -> None:
    seen = visit(browser, page[0], width=360)
    for name in ("Look at an image", "Valid images", "Curves", "Confusion matrices"):
        seen.tab(name)
        seen.page.wait_for_timeout(300)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_with_weights_alone_the_page_says_what_is_missing(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["<b>bold</b>", "{{value}} ${1+1} &amp;"]  # of classes: whoever makes the lists chooses them
    save_staged(tmp_path / "weights", ["resnet18"], classes=names)
    Image.fromarray(random_image(2)).save(tmp_path / "cell.png")
    monkeypatch.chdir(tmp_path)
    with served(tmp_path, exhibit(tmp_path, ["resnet18"], lists=False, why="no lists were found.")) as address:
        seen = visit(browser, address)
        window = seen.page
        assert window.locator("#depths .card").count() == 1
        window.locator("#upload input[type=file]").set_input_files(tmp_path / "cell.png")
        window.locator("#answer .panel").wait_for()
        assert sorted(window.locator("#answer .bars li span").all_inner_texts()) == sorted(names)
        seen.tab("Valid images")
        window.get_by_text("There is no gallery, since no lists were found.").wait_for()
        assert (seen.foreign, seen.errors) == ([], [])
