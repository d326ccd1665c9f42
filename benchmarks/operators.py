"""Where the time of a training step goes: milliseconds by kind of operator, with PyTorch's convolutions and with measured ones.

    python -m benchmarks.operators                          # ResNet18 and 152 at 64 px
    python -m benchmarks.operators --sizes 64 128 --keep operators

A step is forward pass, loss, backward pass, clipping, optimizer and moving average, on one batch in memory, as in train.py, which
moves the average only at every fourth step. PyTorch's profiler sums the time within each operator, without the operators that it
calls. The two networks take turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import describe, keep, keep_option, table_head
from benchmarks.step import use_fastest
from lab.hardware import Hardware, choose_hardware
from lab.training.ema import EMA
from lab.training.recipe import clip_gradients, optimizer_of
from models import catalog

BATCH = 32
# The first kind whose words occur in an operator's name counts.
KINDS = {
    "PyTorch's convolution backward": ["convolution_backward"],
    "PyTorch's convolution forward": ["convolution", "conv2d"],
    "matrix products": ["::mm", "::bmm", "::addmm", "::baddbmm"],
    "copies, casts, padding": ["copy", "_to", "pad", "fill", "zero", "clone", "cat"],
    "batch norm": ["batch_norm"],
    "ReLU, addition, pooling": ["threshold", "relu", "clamp", "aten::add", "pool", "mean"],
    "clipping": ["norm", "stack", "::dot"],
    "optimizer": ["sgd", "adam"],
    "moving average": ["lerp"],
}


def kind_of(operator: str) -> str:
    """The kind of an operator, by its name."""
    name = operator.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")


def milliseconds(step: Callable[[], None]) -> Counter[str]:
    """The time of one step by kind."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        step()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total / 1e3
    return times


def steps_of(network: nn.Module, size: int, hardware: Hardware) -> Callable[[], None]:
    """A training step of the network."""
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (BATCH,))
    optimizer = optimizer_of("sgd", [{"params": list(network.parameters())}], 0.01, hardware.precision)
    ema = EMA(network, 0.99)

    def step() -> None:
        with hardware.autocast():
            loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        clip_gradients(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(0)

    return step


def main() -> None:
    """Profile each network and write one table."""
    parser = argparse.ArgumentParser(description="Milliseconds of a training step on the CPU by kind of operator.")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet152"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=5)
    keep_option(parser, "operators")
    args = parser.parse_args()
    hardware = choose_hardware("cpu")
    lines = [describe(), f"batches of {BATCH}, {hardware.precision}; ms, medians of {args.rounds} steps", ""]
    lines += table_head("model | px | kind of operator | PyTorch's convolutions | measured algorithms")
    for model in args.models:
        for size in args.sizes:
            plain, fastest = (hardware.place(catalog.build(model, 2, size)).train() for _ in range(2))
            sides = [steps_of(network, size, hardware) for network in (plain, use_fastest(fastest, size, hardware))]
            for step in sides:
                step()
            rounds = [[milliseconds(step) for step in sides] for _ in range(args.rounds)]
            rows = {
                kind: [statistics.median(times[side][kind] for times in rounds) for side in (0, 1)] for kind in KINDS
            }
            rows["other"] = [statistics.median(times[side]["other"] for times in rounds) for side in (0, 1)]
            rows["all"] = [statistics.median(times[side].total() for times in rounds) for side in (0, 1)]
            lines += [f"| {model} | {size} | {kind} | {row[0]:.1f} | {row[1]:.1f} |" for kind, row in rows.items()]
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
