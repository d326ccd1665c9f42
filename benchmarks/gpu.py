"""Training on a GPU: images per second of each depth, with and without data, and its share of a measured matrix product.

    python -m benchmarks.gpu --keep gpu                  # 224 px on CUDA; other devices: unmeasured
    python -m benchmarks.gpu --batch-size 512 --compile
    python -m benchmarks.gpu --anyway --size 32 --images 64 --batch-size 8       # a smoke test on any device

The step is train.py's, in the fastest precision of the device. Without data: the same batch, on the device, in every step. Kept:
random images in a store on the device, augmented in every step. Streamed: the same store in the computer's memory, as if it
were too large for the GPU. Nothing is estimated.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import lab.data.batches
from benchmarks.machine import describe, keep, keep_option, table_head
from benchmarks.roofline import matrix_product
from benchmarks.step import Step, ours, timed
from lab.data.batches import Batches
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store
from lab.hardware import Hardware, choose_hardware
from lab.training.compile import compiled
from models import catalog

AIMS = {"resnet18": 15000, "resnet50": 6000, "resnet152": 2400}  # images/s at 224 px in bf16, on an H200
CLASSES = 2


class Same(Batches):
    """Repeats the first batch, without any work on the data."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        return itertools.repeat(next(super().__iter__()))


def random_batches(count: int, size: int, batch: int, device: torch.device, kind: type[Batches] = Batches) -> Batches:
    """Batches of random images, stored at twice the size of the network's input."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 2 * size, 2 * size, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count)
    store = Store(images, np.arange(count), [])
    return kind(store, labels, Preprocessing(2 * size, 2 * size, size, "cell"), batch, device, 0)


def rate(step: Step, images: int, seconds: float, hardware: Hardware) -> float:
    """Images per second of a step of ``images`` images, measured over about ``seconds``."""
    for _ in range(3):  # warm-up: kernels are selected and compiled
        step()
    hardware.synchronise()
    steps = math.ceil(seconds / timed(step, 2, hardware) * 2)
    return images * steps / timed(step, steps, hardware)


def work(model: str, size: int, hardware: Hardware) -> float:
    """GFLOP of a training step per image by PyTorch's counter, two operations per multiplication and addition."""
    network = hardware.place(catalog.build(model, CLASSES, size)).train()
    images = torch.zeros(2, 3, size, size, device=hardware.device)
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(network(images), torch.zeros(2, dtype=torch.long, device=hardware.device)).backward()
    return float(counter.get_total_flops()) / 2 / 1e9


def main() -> None:
    """Measure each depth three ways and write one table."""
    parser = argparse.ArgumentParser(description="Images per second of training on a GPU.")
    parser.add_argument("--models", nargs="+", default=list(AIMS), choices=list(AIMS))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=2048, help="in the random store (default: 2048)")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the step")
    parser.add_argument("--anyway", action="store_true", help="measure on any device, not only CUDA")
    keep_option(parser, "gpu")
    args = parser.parse_args()
    measured = torch.cuda.is_available() or args.anyway
    lines = [describe() if measured else f"{describe()}; no GPU, nothing measured", ""]
    if measured:
        hardware = choose_hardware()
        peak = matrix_product(hardware)
        product = f"matrix product in {hardware.precision}: {peak / 1000:,.1f} TFLOP/s; batches of {args.batch_size}"
        lines = [describe(), product, f"torch.compile {'on' if args.compile else 'off'}", ""]
    columns = "model | px | without data, images/s | share of the product | store kept on the GPU | streamed | aim"
    lines += table_head(columns)
    for model in args.models:
        aim = f"{AIMS[model]:,}" if args.size == 224 else ""
        if not measured:
            lines.append(f"| {model} | {args.size} | unmeasured | unmeasured | unmeasured | unmeasured | {aim} |")
            continue
        wrap: Callable[[nn.Module], nn.Module] = compiled if args.compile else lambda network: network
        rates = []
        for kind, resident in ((Same, True), (Batches, True), (Batches, False)):
            fits = lab.data.batches.fits_on
            lab.data.batches.fits_on = lambda *_, here=resident: here
            batches = random_batches(args.images, args.size, args.batch_size, hardware.device, kind)
            lab.data.batches.fits_on = fits
            began = time.perf_counter()
            step = next(ours(model, batches, hardware, CLASSES, wrap))
            rates.append(rate(step, batches.batch_size, args.seconds, hardware))
            print(f"{model}: {rates[-1]:,.0f} images/s after {time.perf_counter() - began:.0f} s", flush=True)
        share = rates[0] * work(model, args.size, hardware) / peak
        alone, kept, streamed = (f"{value:,.0f}" for value in rates)
        lines.append(f"| {model} | {args.size} | {alone} | {share:.0%} | {kept} | {streamed} | {aim} |")
        keep(args.keep, lines, quiet=True)
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
