"""The speed of a training step with torch.compile, and the cost of its warm-up.

    python -m benchmarks.compile                             # ResNet18 at 64 px
    python -m benchmarks.compile --models resnet152 --sizes 128

Forward and backward on one batch in memory, alternating between the network as train.py trains it, on the CPU with measured
algorithms of convolutions, and the compiled network, which uses PyTorch's. All kernels are compiled anew.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import torch

from benchmarks.machine import describe, keep, keep_option, table_head
from benchmarks.step import BATCH, alone, rates, use_fastest
from lab.hardware import choose_hardware
from lab.training.compile import compiled
from models import catalog

CLASSES = 8


def main() -> None:
    """Time both networks and write one table."""
    parser = argparse.ArgumentParser(description="Images per second of a compiled training step.")
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of timed steps of each in a round (default: 2)")
    keep_option(parser, "compile")
    args = parser.parse_args()
    hardware = choose_hardware()
    lines = [describe(), f"batches of {BATCH}, {hardware.precision}; images/s, medians of {args.rounds} rounds", ""]
    lines += table_head("model | px | eager | compiled | ratio | warm-up, s | pays after, min")
    for size in args.sizes:
        for model in args.models:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
                torch.compiler.reset()
                plain = alone(use_fastest(catalog.build(model, CLASSES, size), size, hardware), size, hardware, CLASSES)
                fused = alone(compiled(catalog.build(model, CLASSES, size)), size, hardware, CLASSES)
                began = time.perf_counter()
                next(fused)()
                warm = time.perf_counter() - began
                slow, fast = rates([plain, fused], args.rounds, args.seconds, hardware)
            pays = f"{warm / (1 - slow / fast) / 60:.0f}" if fast > slow else "never"
            lines.append(f"| {model} | {size} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f} | {warm:.0f} | {pays} |")
            print(lines[-1], flush=True)
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
