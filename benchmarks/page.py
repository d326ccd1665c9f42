"""The examiner's page: seconds from opening to the first answer, and from dropping an image to three answers with heat maps.

    python -m benchmarks.page --data ../shared/data/pbc8

Starts ``demo.py --serve`` on two threads and visits it with headless Chromium (Debian: chromium), each time with an empty cache.
"Opened": from entering the address until the cards of all depths and the first answer are visible. "Answered": from dropping an
image until the answers of all depths, with heat maps, are visible.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright

from benchmarks.machine import PROJECT, describe, keep, keep_option, table_head
from lab.data.lists import read_data_set, read_list
from lab.errors import UserError, run

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


def main() -> None:
    """Serve, visit, drop images, and write one table."""
    parser = argparse.ArgumentParser(description="Seconds until the page answers.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--weights", default="weights")
    parser.add_argument("--report", default="report")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="2")
    keep_option(parser, "page")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("this benchmark needs Chromium (Debian: apt-get install chromium).")
    images = read_list(read_data_set(args.data), "valid", labelled=True).paths[: args.rounds]
    options = ["--data", args.data, "--weights", args.weights, "--report", args.report, "--serve"]
    command = [sys.executable, "-u", str(PROJECT / "demo.py"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": args.threads}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            line = ""
            while "open at" not in line:
                line = server.stdout.readline()
                if not line:
                    raise UserError("the page was not opened; see above.")
            address = line.split("open at ")[1].split()[0]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
                visit(browser, address, images[0])  # fills the page cache
                opened, answered = zip(*(visit(browser, address, image) for image in images), strict=True)
        finally:
            server.terminate()
    torch.set_num_threads(int(args.threads))  # for the description
    lines = [describe(), "", f"{Path(args.data).resolve().name}, all trained depths, seconds:", ""]
    lines += table_head(" | median | slowest")
    for name, taken in (("opened", opened), ("answered", answered)):
        lines.append(f"| {name} | {statistics.median(taken):.2f} | {max(taken):.2f} |")
    keep(args.keep, lines)


def visit(browser: Browser, address: str, image: Path) -> tuple[float, float]:
    """Seconds until the page shows its first answer, and until it shows the answer to a dropped image."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator("#depths .card").first.wait_for()
    page.locator("#answer").locator(".panel, .hint").first.wait_for()
    opened = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        dropped = Path(folder) / f"dropped{image.suffix}"
        shutil.copyfile(image, dropped)
        began = time.perf_counter()
        page.locator("#upload input[type=file]").set_input_files(dropped)
        page.locator("#answer").get_by_text(dropped.name).wait_for()
        answered = time.perf_counter() - began
    context.close()
    return opened, answered


if __name__ == "__main__":
    run(main)
