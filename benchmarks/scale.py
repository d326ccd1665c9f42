"""Seconds and peak memory for lists of 1,000 and 10,000 images, and their growth.

    python -m benchmarks.scale                   # 1,000 and 10,000 images
    python -m benchmarks.scale --full            # 100,000 as well

Four fifths of the images are the training list, the rest valid. Each list has 300 different generated cells of 48 px; the other
names are hard links to them. They take less of the page cache than as many files would, but the package processes every name as
an image. Each row is measured in a new process in a temporary folder. Seconds exclude the imports. Growth is computed from CPU
seconds, which exclude other programs and waiting for the disk. Memory includes the imports, see the row "imports alone". A
process's own (anonymous) memory must fit into the machine; the system can evict pages of the memory-mapped store.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

import train
from benchmarks.machine import PROJECT, describe, keep, keep_option, table_head
from lab.data.batches import STORES
from lab.data.lists import read_data_set, read_lists
from lab.data.preprocessing import choose_preprocessing
from lab.data.store import open_stores

SIDE, SIZE, DISTINCT = 48, 32, 300
DATA = "csv/scale"
STAGES = {
    "imports": "imports alone",
    "lists": "reading and checking the lists",
    "cold": "building the store",
    "warm": "opening the store",
    "start": "training start, to the end of the first step",
}


def make_lists(folder: Path, count: int) -> None:
    """Write lists of ``count`` images in total below ``folder``; train and valid share no image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    for name, number in (("train", count - count // 5), ("valid", count // 5)):
        (folder / name).mkdir(parents=True)
        distinct = [folder / name / f"{index}.png" for index in range(min(number, DISTINCT))]
        for index, path in enumerate(distinct):
            radius = 10 + 4 * (index % 2) + rng.uniform(-2, 2)
            colour = rng.integers(60, 200, 3) + rng.integers(-20, 20, (SIDE, SIDE, 3))
            Image.fromarray(((np.hypot(x, y) < radius)[..., None] * colour).astype(np.uint8)).save(path)
        for index in range(len(distinct), number):
            os.link(distinct[index % len(distinct)], folder / name / f"{index}.png")
        rows = "".join(f"./{name}/{index}.png,{index % DISTINCT % 2}\n" for index in range(number))
        (folder / f"{name}.csv").write_text(f"Path,label\n{rows}")


class FirstStep(Exception):
    """The optimizer has taken its first step."""


def start_training() -> None:
    """Run ``train.py`` until the optimizer has taken the first step of the run. Steps that only measure the pace come before."""
    make_optimizer = train.make_optimizer

    def stopping(*args: Any) -> Any:
        optimizer = make_optimizer(*args)

        def stop(*_: Any) -> None:
            raise FirstStep

        optimizer.register_step_post_hook(stop)
        return optimizer

    options = ["--data", DATA, "--model", "resnet18", "--size", str(SIZE), "--epochs", "1", "--fresh"]
    with patch.object(train, "make_optimizer", stopping):
        try:
            train.main(train.arguments().parse_args(options))
        except FirstStep:
            return
    raise RuntimeError("train.py ended without a step of its optimizer")


def memory() -> dict[str, float]:
    """This process's memory in MiB by Linux's names; empty on other systems."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmHWM", "Rss"))}


def stage(name: str) -> dict[str, float]:
    """Run one stage in this process. Returns its ``seconds``, its CPU seconds (``cpu``) and its peak memory in MiB: ``peak`` in
    total, ``own`` without mapped files."""
    own, ended = [memory().get("RssAnon", float("nan"))], threading.Event()

    def sample() -> None:
        while not ended.wait(0.01):
            own.append(memory().get("RssAnon", float("nan")))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        seconds, cpu = work(name)
    finally:
        ended.set()
        sampler.join()
    # ru_maxrss includes the parent's memory at the time of the fork; VmHWM does not.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = memory().get("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "own": max(own)}


def work(name: str) -> tuple[float, float]:
    """Seconds and CPU seconds of a stage, without the stages before it."""
    began = time.perf_counter(), time.process_time()
    if name == "start":
        start_training()
    elif name != "imports":
        lists = read_lists(read_data_set(DATA), ("train", "valid"))
        if name != "lists":
            preprocessing = choose_preprocessing(lists["train"], SIZE)
            began = time.perf_counter(), time.process_time()
            open_stores(lists, preprocessing, STORES / "scale")
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    """Measure each stage for each number of images and write one table."""
    parser = argparse.ArgumentParser(description="Seconds and memory for lists of 1,000 to 100,000 images.")
    parser.add_argument("--full", action="store_true", help="100,000 images as well")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    keep_option(parser, "scale")
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(stage(args.stage)))
        return
    counts = [1_000, 10_000] + ([100_000] if args.full else [])
    rows: dict[tuple[str, int], dict[str, float]] = {}
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            make_lists(Path(folder) / DATA, count)
            # The first start builds matplotlib's font cache and fills the page cache; the second one replaces its row.
            for name in [*(["start"] if count == counts[0] else []), *STAGES]:
                command = [sys.executable, "-m", "benchmarks.scale", "--stage", name]
                if name == "cold":
                    shutil.rmtree(Path(folder) / STORES, ignore_errors=True)
                done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
                rows[name, count] = json.loads(done.stdout.splitlines()[-1])
                print(f"{count:,} images, {STAGES[name]}: {rows[name, count]}", flush=True)
    title = f"images of {SIDE} px, {SIZE} px as trained; own: memory without mapped files, at its peak"
    columns = "what | images | seconds | of the CPU | per 1,000 | growth | peak, MiB | own, MiB | KiB more per image"
    lines = [describe(), title, "", *table_head(columns)]
    for name, what in STAGES.items():
        for count, before in zip(counts, [None, *counts], strict=False):
            row = rows[name, count]
            growth = each = ""
            if before:
                earlier = rows[name, before]
                growth = f"× {row['cpu'] / earlier['cpu']:.1f} for × {count // before}" if name != "imports" else ""
                each = f"{1024 * (row['own'] - earlier['own']) / (count - before):.2f}"
            times = f"{row['seconds']:.2f} | {row['cpu']:.2f} | {1000 * row['cpu'] / count:.3f} | {growth}"
            lines.append(f"| {what} | {count:,} | {times} | {row['peak']:,.0f} | {row['own']:,.0f} | {each} |")
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
