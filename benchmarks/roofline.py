"""The share of the machine's arithmetic that training uses: GFLOP/s of each depth over those of a matrix product.

    python -m benchmarks.roofline                       # 18, 50 and 152 at 64 px
    python -m benchmarks.roofline --sizes 64 128 --keep roofline

The product of two large square matrices, in the precision that training uses, is taken for the best that the device can do.
PyTorch's FLOP counter counts the work of a step (forward and backward): two operations per multiplication and addition.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, keep, keep_option, table_head
from lab.cpu.convolutions import replace_convolutions
from lab.cpu.fastest import measured_table
from lab.data.batches import STORES
from lab.hardware import Hardware, choose_hardware
from models import catalog

BATCH = 32


def seconds(work: Callable[[], object], hardware: Hardware, times: int) -> float:
    """The median of ``times`` repetitions, after one for warm-up."""
    taken = []
    for number in range(times + 1):
        began = time.perf_counter()
        work()
        hardware.synchronise()
        if number:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def matrix_product(hardware: Hardware) -> float:
    """GFLOP/s of a product of two large square matrices, in the precision that training uses."""
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    side = 8192 if hardware.device.type == "cuda" else 2048
    matrix = torch.randn(side, side, device=hardware.device, dtype=kinds[hardware.precision])
    return 2 * side**3 / seconds(lambda: matrix @ matrix, hardware, 5) / 1e9


def main() -> None:
    """Measure the product, then each depth at each size."""
    parser = argparse.ArgumentParser(description="Achieved GFLOP/s of training over those of a matrix product.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--times", type=int, default=3)
    keep_option(parser, "roofline")
    args = parser.parse_args()
    hardware = choose_hardware()
    peak = matrix_product(hardware)
    lines = [describe(), f"matrix product in {hardware.precision}: {peak:,.0f} GFLOP/s", ""]
    columns = "model | px | GFLOP per image | images/s | GFLOP/s | share of the product | images/s at its speed"
    lines += table_head(columns)
    for model in catalog.depths():
        for size in args.sizes:
            network = hardware.place(catalog.build(model, 2, size)).train()
            images = torch.randn(BATCH, 3, size, size, device=hardware.device)
            images = images.contiguous(memory_format=torch.channels_last)
            labels = torch.zeros(BATCH, dtype=torch.long, device=hardware.device)

            def step(net: torch.nn.Module = network, given: torch.Tensor = images, true: torch.Tensor = labels) -> None:
                with hardware.autocast():
                    loss = functional.cross_entropy(net(given), true)
                loss.backward()
                net.zero_grad(set_to_none=True)

            with FlopCounterMode(display=False) as counter:
                step()
            if hardware.device.type == "cpu":  # the same work, by the fastest algorithms
                replace_convolutions(network, {})
                table = measured_table(network, [size], BATCH, hardware, STORES / "convolutions.json")
                replace_convolutions(network, table)
            work = counter.get_total_flops() / BATCH / 1e9
            rate = BATCH / seconds(step, hardware, args.times)
            achieved = f"{work * rate:,.0f} | {work * rate / peak:.0%}"
            lines.append(f"| {model} | {size} | {work:.2f} | {rate:,.1f} | {achieved} | {peak / work:,.1f} |")
            print(lines[-1], flush=True)
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
