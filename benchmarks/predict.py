"""Images per second of prediction from normalised images in memory: ours against plain loops.

    python -m benchmarks.predict                        # 18, 50 and 152 at 64 px
    python -m benchmarks.predict --sizes 64 224 --keep predict

The plain loop is torchvision's network in float32 and the default memory format, in batches of 32. The tuned loop has the
hardware's fastest precision and channels-last tensors. Ours is what predict.py does: batch norms folded into the convolutions,
channels last, the hardware's fastest precision, and on a CPU fused blocks (lab/cpu/fused_inference.py) with the algorithms that a
training at this size measures. The time includes this preparation, but neither that measurement nor the one of the threads.
They run alternately, each in its own process; the table gives medians.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks.machine import describe, keep, keep_option, table_head
from benchmarks.step import use_fastest
from lab.evaluation.inference import predict
from lab.hardware import Hardware, choose_hardware
from models import catalog

BATCH = 32


@functools.cache
def plain(model: str, who: str) -> tuple[nn.Module, Hardware]:
    """torchvision's network, and the hardware that it runs on."""
    network: nn.Module = getattr(torchvision.models, model)(num_classes=2).eval()
    if who == "tuned":
        hardware = choose_hardware()
        return hardware.place(network), hardware
    hardware = Hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"), "fp32")
    return network.to(hardware.device), hardware


@functools.cache
def our_own(model: str, size: int) -> tuple[nn.Module, Hardware]:
    """Our network and the hardware that it runs on."""
    chosen = choose_hardware()
    hardware = Hardware(chosen.device, chosen.precision)  # the number of threads does not change
    network = hardware.place(catalog.build(model, 2, size)).eval()
    return use_fastest(network, size, hardware), hardware


def seconds(who: str, model: str, size: int, count: int) -> float:
    """Seconds that one of the three takes for ``count`` batches, in its own process."""
    torch.manual_seed(0)
    images = [torch.randn(BATCH, 3, size, size) for _ in range(count)]
    if who == "ours":
        network, hardware = our_own(model, size)
        batches = [(batch.to(hardware.device), torch.empty(0), np.arange(len(batch))) for batch in images]
        began = time.perf_counter()
        predict(network, batches, hardware)
        return time.perf_counter() - began
    network, hardware = plain(model, who)
    memory_format = torch.channels_last if who == "tuned" else torch.contiguous_format
    images = [batch.to(hardware.device, memory_format=memory_format) for batch in images]
    began = time.perf_counter()
    with torch.no_grad():
        for batch in images:
            with hardware.autocast():
                logits = network(batch)
            logits.float().softmax(dim=1).cpu().numpy()
    return time.perf_counter() - began


def main() -> None:
    """Time all alternately and write one table."""
    parser = argparse.ArgumentParser(description="Images per second of prediction, ours against plain loops.")
    parser.add_argument("--models", nargs="+", default=catalog.depths())
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="after one for warm-up")
    keep_option(parser, "predict")
    args = parser.parse_args()
    lines = [describe(), "", *table_head("model | px | ours, images/s | plain loop | ratio | tuned loop | ratio")]
    spawn = multiprocessing.get_context("spawn")
    sides = {who: ProcessPoolExecutor(1, spawn) for who in ("ours", "plain", "tuned")}
    for model in args.models:
        for size in args.sizes:
            taken: dict[str, list[float]] = {who: [] for who in sides}
            for number, (who, process) in itertools.product(range(args.rounds + 1), sides.items()):
                found = process.submit(seconds, who, model, size, args.batches).result()
                if number:
                    taken[who].append(found)
            mine, *others = (BATCH * args.batches / statistics.median(side) for side in taken.values())
            cells = " | ".join(f"{other:.1f} | {mine / other:.2f}" for other in others)
            lines.append(f"| {model} | {size} | {mine:.1f} | {cells} |")
            print(lines[-1], flush=True)
    for process in sides.values():
        process.shutdown()
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
