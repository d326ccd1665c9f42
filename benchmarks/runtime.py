"""A training step on the CPU with other settings of the libraries, each in its own process, by turns.

    python -m benchmarks.runtime                            # ResNet18 and 152 at 64 px
    python -m benchmarks.runtime --preload tcmalloc=libtcmalloc_minimal.so.4 OpenMP=libiomp5.so --keep runtime

Each process builds the network with measured algorithms, warms up, and times forward and backward on one batch in memory. With
two processes of one thread each, both take half of the batch and average their gradients. The algorithms are those measured for
batches of 32. ``--preload`` adds variants that load a shared library first, such as another allocator or OpenMP runtime.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmarks.machine import PROJECT, describe, keep, keep_option, table_head
from benchmarks.step import use_fastest
from lab.distributed import join
from lab.hardware import choose_hardware
from models import catalog

BATCH = 32


class Variant(NamedTuple):
    """Environment, options of the child, and number of processes."""

    environment: dict[str, str]
    options: tuple[str, ...] = ()
    processes: int = 1


VARIANTS = {
    "train.py's settings": Variant({}),
    "oneDNN's cache of 8,192 primitives, not 1,024": Variant({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192"}),
    "OMP_WAIT_POLICY=active": Variant({"OMP_WAIT_POLICY": "active"}),
    "float32 convolutions and products by bf16": Variant({}, ("--bf16",)),
    "two processes of one thread": Variant({"OMP_NUM_THREADS": "1"}, processes=2),
    "batches of 128": Variant({}, ("--batch", "128")),
}


def measure(model: str, size: int, seconds: float, batch: int, bf16: bool) -> None:
    """Print the images per second of this process, or of all processes that train together. With ``bf16``, only the products
    inside PyTorch's float32 operators are bf16."""
    ranks, hardware = join(), choose_hardware("cpu", "fp32" if bf16 else "auto")
    if bf16:
        torch.backends.mkldnn.conv.fp32_precision = "bf16"  # type: ignore[attr-defined]
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    torch.manual_seed(0)
    network = use_fastest(hardware.place(catalog.build(model, 2, size)).train(), size, hardware)
    forward = ranks.parallel(network, hardware.device)
    images = torch.randn(batch // ranks.count, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (len(images),))
    taken: list[float] = []
    # All processes take the same number of steps, or the last one would wait for the others' gradients.
    while len(taken) < 4 or ranks.any(sum(taken[1:]) < seconds):
        began = time.perf_counter()
        with hardware.autocast():
            loss = functional.cross_entropy(forward(images), labels)
        loss.backward()
        network.zero_grad(set_to_none=True)
        taken.append(time.perf_counter() - began)
    if ranks.first:
        print(f"images/s: {batch / statistics.median(taken[1:]):.2f}")


def run(variant: Variant, model: str, size: int, seconds: float) -> float:
    """Images per second of a variant."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(variant.processes)]
    line = [sys.executable, *(launcher if variant.processes > 1 else []), "-m", "benchmarks.runtime", "--child"]
    line += ["--models", model, "--sizes", str(size), "--seconds", str(seconds), *variant.options]
    environment = os.environ | variant.environment
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True)
    found = [text for text in done.stdout.splitlines() if text.startswith("images/s: ")]
    if done.returncode or not found:
        sys.exit(f"{' '.join(line)} failed:\n{done.stderr}")
    return float(found[0].split()[1])


def main() -> None:
    """Time all variants and write one table."""
    parser = argparse.ArgumentParser(description="Images per second with other settings of the libraries.")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet152"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed steps (default: 3)")
    parser.add_argument("--preload", nargs="+", default=[], metavar="NAME=LIBRARY", help="variants that load it first")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=BATCH, help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    keep_option(parser, "runtime")
    args = parser.parse_args()
    if args.child:
        return measure(args.models[0], args.sizes[0], args.seconds, args.batch, args.bf16)
    preloaded = [text.split("=", 1) for text in args.preload]
    variants = VARIANTS | {name: Variant({"LD_PRELOAD": library}) for name, library in preloaded}
    lines = [describe(), f"batches of {BATCH} unless named; images/s, medians of {args.rounds} rounds", ""]
    lines += table_head("model | px | variant | images/s | ratio")
    for model in args.models:
        for size in args.sizes:
            rates: dict[str, list[float]] = {name: [] for name in variants}
            for _ in range(args.rounds):
                for name, variant in variants.items():
                    rates[name].append(run(variant, model, size, args.seconds))
            medians = {name: statistics.median(values) for name, values in rates.items()}
            first = next(iter(medians.values()))
            for name, rate in medians.items():
                lines.append(f"| {model} | {size} | {name} | {rate:.1f} | {rate / first:.2f} |")
                print(lines[-1], flush=True)
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
