"""Images per second of training beside other programs: with all threads, with one, with the number that measurements choose.

    python -m benchmarks.busy                                       # quick: ResNet18 at 64 px on the sample
    python -m benchmarks.busy --models resnet18 resnet50 resnet152 --sizes 64 128 --rounds 2 --seconds 10 \
        --data ../shared/data/pbc8 --keep busy

The programs that it starts count in a loop, with normal or low priority (nice 10). "All threads" is train.py as it was before it
chose the number; "chosen" is train.py now, with the comparisons that come up during the timed steps, but without the one at its
start. The peer's loop is that of ``benchmarks.step``, with torch's default threads. All sides train in one process and take
turns. The second table is the time that ``train.py`` needs to notice a program that comes and goes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.machine import describe, keep, keep_option, table_head
from benchmarks.step import BATCH, Step, ours, peers
from lab.data.batches import Batches
from lab.data.lists import read_data_set, read_list
from lab.data.preprocessing import measured_preprocessing
from lab.data.store import open_stores
from lab.evaluation.inference import outputs
from lab.hardware import Hardware, choose_hardware
from lab.threads import Threads
from models import catalog

CONDITIONS = {
    "alone": (0, 0),
    "1 busy": (1, 0),
    "1 busy, nice 10": (1, 10),
    "2 busy": (2, 0),
    "2 busy, nice 10": (2, 10),
}
COUNTING = "number = 0\nwhile True:\n    number += 1"


@contextmanager
def programs(count: int, nice: int) -> Iterator[None]:
    """Run ``count`` programs that use a CPU each, beside the block."""
    line = ["nice", "-n", str(nice), sys.executable, "-c", COUNTING]
    running = [subprocess.Popen(line) for _ in range(count)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


class Chosen:
    """Steps of train.py with its choice of threads; a comparison passes a few images through a network of the same kind."""

    def __init__(self, model: str, size: int, classes: int, step: Step, threads: Threads, hardware: Hardware) -> None:
        self.network = hardware.place(catalog.build(model, classes, size)).eval()
        self.images = torch.zeros(threads.images, 3, size, size)
        self.train, self.threads, self.hardware = step, threads, hardware
        threads.begin((model, size))

    def work(self) -> None:
        """The forward pass of a comparison."""
        outputs(self.network, self.images, self.hardware)

    def step(self) -> None:
        """A training step, and what train.py does after it."""
        self.train()
        self.threads.after_step(self.work, BATCH)


def rate(step: Step, seconds: float) -> float:
    """Images per second of steps that take at least ``seconds``, after one for warm-up."""
    step()
    began, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        step()
        steps += 1
    return BATCH * steps / passed


def row(name: str, sides: list[Iterator[Step]], chosen: Chosen, rounds: int, seconds: float) -> str:
    """The rates of all threads, one thread, the chosen number and the peer's loop in one condition, as a row of the table."""
    threads, limit = chosen.threads, chosen.threads.limit
    results: dict[str, list[float]] = {}
    threads.compare(chosen.work)
    number = threads.number
    for _ in range(rounds):
        for side, count in (("all", limit), ("one", 1)):
            torch.set_num_threads(count)
            results.setdefault(side, []).append(rate(next(sides[0]), seconds))
        threads.use(number)
        threads.begin(threads.kind)
        results.setdefault("chosen", []).append(rate(chosen.step, seconds))
        number = threads.number
        torch.set_num_threads(limit)
        results.setdefault("peer", []).append(rate(next(sides[1]), seconds))
        time.sleep(1)  # the peer's workers fill their queues and become idle
    every, one, ours, peer = (statistics.mean(results[side]) for side in ("all", "one", "chosen", "peer"))
    return f"{name} | {every:.1f} | {one:.1f} | {ours:.1f} ({number}) | {ours / one:.2f} | {ours / every:.2f} | {peer:.1f} |"


def reaction(chosen: Chosen, times: int) -> list[str]:
    """Rows with the seconds until the number of threads follows a program that comes, and one that ends."""
    threads, fewer, more = chosen.threads, [], []

    def wait(fewer: bool, most: float = 240) -> float:
        began = time.perf_counter()
        while (threads.number < threads.limit) != fewer and time.perf_counter() - began < most:
            chosen.step()
        return time.perf_counter() - began

    for _ in range(times):
        wait(fewer=False)
        rate(chosen.step, 15)
        with programs(1, 0):
            fewer.append(wait(fewer=True))
            rate(chosen.step, 15)
        more.append(wait(fewer=False))
    texts = [", ".join(f"{seconds:.0f}" for seconds in side) for side in (fewer, more)]
    return [f"| fewer after a program came | {texts[0]} |", f"| all again after it ended | {texts[1]} |"]


def main() -> None:
    """Train in all conditions and write both tables."""
    parser = argparse.ArgumentParser(description="Images per second of training beside busy programs.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--root")
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5, help="of timed steps per side and round (default: 5)")
    keep_option(parser, "busy")
    args = parser.parse_args()
    hardware, limit = choose_hardware("cpu"), torch.get_num_threads()
    data = read_data_set(args.data, args.root)
    images, classes = read_list(data, "train", labelled=True), len(data.classes)
    turns = f"{args.rounds} × {args.seconds:g} s or a step"
    title = f"{data.name}, batches of {BATCH}, {hardware.precision}; images/s and ratios, {turns}"
    columns = f"model | px | beside | {limit} threads | 1 | chosen (number) | to 1 | to {limit} | peer's loop"
    lines, reactions = [describe(), title, "", *table_head(columns)], []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            preprocessing = measured_preprocessing(images, size)
            store = open_stores({"train": images}, preprocessing, Path(folder))["train"]
            batches = Batches(store, images.labels, preprocessing, BATCH, hardware.device, 0)
            for model in args.models:
                sides = [ours(model, batches, hardware, classes)]
                sides += [peers(model, images, preprocessing.window, size, hardware, classes)]
                threads = Threads(limit, fixed=False)
                chosen = Chosen(model, size, classes, next(sides[0]), threads, hardware)
                for name, (count, nice) in CONDITIONS.items():
                    with programs(count, nice):
                        lines.append(f"| {model} | {size} | {row(name, sides, chosen, args.rounds, args.seconds)}")
                    print(lines[-1], flush=True)
                if (model, size) == (args.models[0], args.sizes[0]):
                    reactions = reaction(chosen, 3 if args.rounds > 1 else 1)
                del sides, chosen
    lines += [
        "",
        f"{args.models[0]} at {args.sizes[0]} px, each time:",
        "",
        *table_head("threads | seconds"),
        *reactions,
    ]
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
