"""The cost of a snapshot within an epoch: seconds to write the last checkpoint, its size, and its share of the training time.

    python -m benchmarks.snapshot                       # 18, 50 and 152, with SGD and with AdamW

A last checkpoint contains the network, its EMA weights and the optimizer's state: a momentum for each weight (SGD) or two
moments (AdamW). Training waits while it is written and flushed to the disk, below weights/ as in a run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.machine import describe, keep, keep_option, table_head
from lab.checkpoints.checkpoint import About, optimizer_tensors, save_checkpoint
from lab.data.preprocessing import Preprocessing
from lab.hardware import choose_hardware
from lab.training.ema import EMA
from lab.training.recipe import chosen_settings, make_optimizer
from lab.training.snapshots import INTERVAL
from models import catalog
from train import arguments


def main() -> None:
    """Time each depth with each optimizer and write one table."""
    parser = argparse.ArgumentParser(description="Seconds and MiB of a snapshot within an epoch.")
    parser.add_argument("--models", nargs="+", default=catalog.depths())
    parser.add_argument("--times", type=int, default=3, help="after one for warm-up")
    parser.add_argument("--folder", type=Path, default=Path("weights"), help="a temporary folder is made in it")
    keep_option(parser, "snapshot")
    args = parser.parse_args()
    hardware = choose_hardware()
    classes = ["normal", "leukemia blast"]
    preprocessing = Preprocessing(64, 128, 64, "cell")
    lines = [describe(), f"medians of {args.times}; a snapshot every {INTERVAL:.0f} s of training", ""]
    lines += table_head("model | optimizer | MiB | seconds | share of training time")
    args.folder.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        for kind in ("sgd", "adamw"):
            parsed = arguments().parse_args(["--optimizer", kind])
            settings = chosen_settings(model, parsed, parsed.given, hardware, preprocessing)
            network = hardware.place(catalog.build(model, len(classes), preprocessing.size))
            optimizer = make_optimizer(network, settings, hardware.precision)
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # the first step creates the state
            ema = EMA(network, settings.ema)
            taken = []
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                path = Path(folder) / "last.safetensors"
                for number in range(args.times + 1):
                    began = time.perf_counter()
                    averaged = {f"model.{name}": tensor for name, tensor in ema.network.state_dict().items()}
                    raw = {f"train.{name}": tensor for name, tensor in network.state_dict().items()}
                    tensors = averaged | raw | optimizer_tensors(optimizer)
                    save_checkpoint(path, About(model, classes, preprocessing), tensors)
                    if number:
                        taken.append(time.perf_counter() - began)
                size = path.stat().st_size / 2**20
            seconds = statistics.median(taken)
            share = seconds / (INTERVAL + seconds)
            lines.append(f"| {model} | {kind} | {size:,.0f} | {seconds:.2f} | {share:.2%} |")
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
