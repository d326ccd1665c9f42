"""Images per second of prediction: ours against the plain loop, from normalised images in memory.

    python benchmarks/predict.py                        # 18, 50 and 152 at 64 px
    python benchmarks/predict.py --sizes 64 224 --keep predict

The plain loop is torchvision's network in float32 and default memory format, batches of 32. Ours is what predict.py does: batch
norm folded into the convolutions, channels last, in the precision that the hardware likes, on a processor with blocks fused
(lab/fused.py); its preparation counts. Alternated within one run; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torchvision

import resnet
from benchmarks.machine import describe, keep, keep_option
from lab.hardware import choose_hardware
from lab.inference import predict


def main() -> None:
    """Time both sides in turn and keep one table."""
    parser = argparse.ArgumentParser(description="Images per second of prediction, ours against the plain loop.")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "resnet152"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up")
    keep_option(parser, "predict")
    args = parser.parse_args()
    hardware = choose_hardware()
    lines = [describe(), "", "| model | px | ours, images/s | plain loop, images/s | ratio |", "|---" * 5 + "|"]
    for model in args.models:
        network = hardware.place(resnet.build(model, 2)).eval()
        theirs = getattr(torchvision.models, model)(num_classes=2).to(hardware.device).eval()
        for size in args.sizes:
            images = [torch.randn(32, 3, size, size, device=hardware.device) for _ in range(args.batches)]
            batches = [(batch, torch.empty(0), np.arange(len(batch))) for batch in images]
            taken: tuple[list[float], list[float]] = ([], [])
            for number in range(args.rounds + 1):
                began = time.perf_counter()
                predict(network, batches, hardware)
                middle = time.perf_counter()
                with torch.no_grad():
                    for batch in images:
                        theirs(batch).softmax(dim=1).cpu().numpy()
                ended = time.perf_counter()
                if number:
                    taken[0].append(middle - began)
                    taken[1].append(ended - middle)
            mine, plain = (32 * args.batches / statistics.median(side) for side in taken)
            lines.append(f"| {model} | {size} | {mine:.1f} | {plain:.1f} | {mine / plain:.2f} |")
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
