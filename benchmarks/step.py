"""Images per second of a training step: our network and loop against torchvision's network in a peer's loop.

    python benchmarks/step.py                # quick: 18, 50 and 152 at 64 px
    python benchmarks/step.py --sizes 64 128 224 --steps 10

Both sides take steps on one batch in memory, alternated in one run, so that a change in the machine's speed meets both.
The peer's loop is what a student writes: default memory format, float32, SGD; ours is train.py's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision
from torch import nn
from torch.nn import functional

import resnet
from benchmarks.machine import describe, keep
from lab.ema import EMA
from lab.hardware import Hardware, choose_hardware
from lab.preprocessing import Preprocessing
from lab.recipe import chosen_settings, make_optimizer
from train import arguments

BATCH = 32


def ours(model: str, hardware: Hardware) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step as train.py takes it, with its default settings."""
    settings = chosen_settings(model, arguments().parse_args([]), hardware, Preprocessing(64, 128, 64, "cell"))
    network = hardware.place(resnet.build(model, 2, zero_init_residual=True)).train()
    optimizer = make_optimizer(network, settings, hardware.precision)
    ema = EMA(network, settings.ema)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with hardware.autocast():
            images = images.contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(network(images), labels, label_smoothing=settings.smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(0)

    return step


def peers(model: str, hardware: Hardware) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step as a student takes it with torchvision's network."""
    network = getattr(torchvision.models, model)(num_classes=2).to(hardware.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def main() -> None:
    """Time both sides in turn and print one table."""
    parser = argparse.ArgumentParser(description="Images per second of a training step, ours against a peer's.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--steps", type=int, default=3, help="timed pairs of steps, after one that warms up")
    args = parser.parse_args()
    hardware = choose_hardware()
    lines = [describe(), "", "| model | px | ours, images/s | peer's, images/s | ratio |", "|---|---|---|---|---|"]
    for model in ("resnet18", "resnet50", "resnet152"):
        for size in args.sizes:
            images = torch.randn(BATCH, 3, size, size, device=hardware.device)
            labels = torch.randint(0, 2, (BATCH,), device=hardware.device)
            sides = ours(model, hardware), peers(model, hardware)
            seconds: tuple[list[float], list[float]] = ([], [])
            for number in range(args.steps + 1):
                for side, taken in zip(sides, seconds, strict=True):
                    began = time.perf_counter()
                    side(images, labels)
                    if hardware.device.type == "cuda":
                        torch.cuda.synchronize()
                    if number:
                        taken.append(time.perf_counter() - began)
            mine, theirs = (BATCH / statistics.median(taken) for taken in seconds)
            lines.append(f"| {model} | {size} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} |")
    keep("step", lines)


if __name__ == "__main__":
    main()
