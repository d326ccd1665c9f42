"""Time to accuracy: minutes until the valid accuracy stays at 97 % or above, ours against a peer's loop.

    python -m benchmarks.accuracy_time --data csv/sample --size 32 --epochs 4 --threshold 0.7          # a smoke test
    python -m benchmarks.accuracy_time --data ../shared/data/all4 --size 80 --epochs 10 --peer-epochs 30 --seeds 3 \\
        --also "--progressive --optimizer adamw --lr 0.002" --keep accuracy_time
    python -m benchmarks.accuracy_time --keep accuracy_time --table                                    # only write the table

The time is that of the first epoch after which no epoch is below the threshold. A run whose last epoch is below it has not
reached it, and its time is not estimated. Ours is train.py with its defaults and the options of ``--also``, in an empty folder.
Its minutes include everything from the start of the command: imports, checks, decoding into the store, figures, checkpoints. The
peer's loop uses torchvision's network, float32, SGD with momentum 0.9 at a constant 0.01, flips and rotation by up to 20°, Pillow
per image in a DataLoader with as many workers as cores, and measures the latest weights on valid after each epoch. Images,
window, size and batch are the same. Its minutes begin after reading the lists and importing torch.

Each finished run is a row of a CSV file next to the table and is not repeated. ``machine``: where it ran. ``before``: seconds
before its first epoch. ``ended``: seconds from the start to the end of each epoch. ``accuracy``: accuracy on valid of each epoch.
The table gives medians over the seeds.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.machine import PROJECT, describe, keep, keep_option, table_head
from benchmarks.step import Files, peers_network, peers_step
from lab.checkpoints.checkpoint import read_about
from lab.data.batches import EVALUATION_BATCH
from lab.data.lists import data_name, find_folder, read_data_set, read_lists
from lab.data.preprocessing import Preprocessing, choose_preprocessing
from lab.files import write_whole
from lab.hardware import Hardware, choose_hardware
from lab.threads import decoding_threads
from lab.training.recipe import chosen_settings
from train import arguments

RESULTS = PROJECT / "benchmarks" / "results"
KEY = ["data", "model", "size", "epochs", "who", "seed", "options"]
FLIPS_AND_ROTATION = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip(), transforms.RandomRotation(20)]
# Of a run: seconds before its first epoch; per epoch the seconds from the start to its end, and the accuracy on valid.
Course = tuple[float, list[float], list[float]]


def ours(args: argparse.Namespace, seed: int) -> Course:
    """A run of ``train.py`` in an empty folder; an epoch ends when its results are printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(PROJECT / "train.py"), *options(args), "--seed", str(seed)]
        ended = []
        began = time.perf_counter()
        errors = Path(folder) / "stderr"
        with (
            errors.open("w") as stderr,
            subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=stderr) as process,
        ):
            for line in process.stdout or []:
                if re.match(rf"{args.model} epoch \d+/\d+: ", line):
                    ended.append(time.perf_counter() - began)
        best = Path(folder) / "weights" / data_name(args.data) / args.model / "best.safetensors"
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.read_text()[-2000:]}")
        history = read_about(best, args.model).history
    if len(ended) != len(history):
        raise RuntimeError(f"train.py printed the results of {len(ended)} epochs, its history has {len(history)}")
    return ended[0] - history[0]["seconds"], ended, [epoch["valid_accuracy"] for epoch in history]


def options(args: argparse.Namespace) -> list[str]:
    """The options of ``train.py`` except the seed."""
    lists = ["--data", str(find_folder(args.data).resolve())]
    lists += ["--root", str(Path(args.root).resolve())] if args.root else []
    run = ["--model", args.model, "--epochs", str(args.epochs), "--size", str(args.size)]
    return [*lists, *run, *args.also.split()]


def peers(args: argparse.Namespace, seed: int, batch: int, hardware: Hardware) -> Course:
    """A run of the peer's loop in this process."""
    data = read_data_set(args.data, args.root)
    lists = read_lists(data, ("train", "valid"))
    window = choose_preprocessing(lists["train"], args.size, arguments().parse_args(options(args)).window).window
    began = time.perf_counter()
    torch.manual_seed(seed)
    network, optimizer = peers_network(args.model, hardware, len(data.classes))
    workers = decoding_threads()
    files = Files(lists["train"], window, args.size, FLIPS_AND_ROTATION)
    train = DataLoader(files, min(batch, len(files)), shuffle=True, num_workers=workers, drop_last=True)
    valid = DataLoader(Files(lists["valid"], window, args.size), EVALUATION_BATCH, num_workers=workers)
    ended, accuracy = [], []
    for epoch in range(args.peer_epochs):
        network.train()
        for images, labels in train:
            peers_step(network, optimizer, images, labels, hardware)
        network.eval()
        hits = 0
        with torch.no_grad():
            for images, labels in valid:
                found = network(images.to(hardware.device)).argmax(dim=1)
                hits += int((found == labels.to(hardware.device)).sum())
        ended.append(time.perf_counter() - began)
        accuracy.append(hits / len(lists["valid"]))
        print(f"peer's epoch {epoch + 1}/{args.peer_epochs}: {100 * accuracy[-1]:.2f} %, {ended[-1]:.0f} s", flush=True)
    return 0.0, ended, accuracy


def stays(accuracy: list[float], threshold: float) -> int | None:
    """The first epoch, from 0, after which the accuracy is never below the threshold; None if the last one is below."""
    below = [epoch for epoch, value in enumerate(accuracy) if value < threshold]
    first = below[-1] + 1 if below else 0
    return first if first < len(accuracy) else None


def numbers(cells: pd.Series) -> list[list[float]]:
    """The numbers of each cell, which are separated by spaces."""
    return [[float(number) for number in str(cell).split()] for cell in cells]


def tables(runs: pd.DataFrame, threshold: float) -> list[str]:
    """A table for each data set, network and size: our runs, the peer's, and the ratios of their medians."""
    lines: list[str] = []
    for (data, model, size), part in runs.groupby(KEY[:3], sort=False):
        lines += [f"### {model} on {data}, {size} px, until valid stays at {100 * threshold:g} % or above", ""]
        columns = (
            "who | epochs | seeds | got there | minutes | before epoch 1 | in epoch | last epoch | whole run | an epoch"
        )
        lines += table_head(columns)
        minutes: dict[str, list[tuple[str, float, float]]] = {"ours": [], "peer": []}
        for (epochs, who, given), rows in part.groupby(["epochs", "who", "options"], sort=False):
            ended, accuracy = numbers(rows["ended"]), numbers(rows["accuracy"])
            reached = [stays(values, threshold) for values in accuracy]
            pairs = list(zip(ended, reached, strict=True))
            times = [math.inf if epoch is None else seconds[epoch] / 60 for seconds, epoch in pairs]
            # A lower bound for runs that have not reached it: their length.
            least = statistics.median(seconds[-1 if epoch is None else epoch] / 60 for seconds, epoch in pairs)
            middle = statistics.median(times)  # infinite if half of the runs or more have not reached it
            epoch = statistics.median(math.inf if epoch is None else epoch + 1 for epoch in reached)
            last = 100 * statistics.median(values[-1] for values in accuracy)
            whole = statistics.median(seconds[-1] / 60 for seconds in ended)
            pairs_before = zip(ended, rows["before"].astype(float), strict=True)
            paces = [(seconds[-1] - before) / len(seconds) for seconds, before in pairs_before]
            name = f"{who} `{given}`" if given else str(who)
            minutes[str(who)].append((name, middle, least))
            got = sum(time < math.inf for time in times)
            cells = [name, str(epochs), str(len(rows)), f"{got} of {len(rows)}"]
            before = f"{statistics.median(rows['before'].astype(float)) / 60:.1f}"
            cells += [f"{middle:.1f}", before, f"{epoch:g}"] if middle < math.inf else ["not reached", before, ""]
            cells += [f"{last:.2f} %", f"{whole:.1f} min", f"{statistics.median(paces):.0f} s"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
        for mine, taken, _ in minutes["ours"]:
            for theirs, middle, least in minutes["peer"]:
                if taken == math.inf:
                    continue
                ratio = f"{middle / taken:.1f} times" if middle < math.inf else f"more than {least / taken:.1f} times"
                why = "" if middle < math.inf else ": that had not got there when it ended"
                lines += [f"{mine}: {ratio} sooner than {theirs}{why}.", ""]
    return lines


def main() -> None:
    """Do the missing runs, ours and the peer's alternately, then write the table."""
    parser = argparse.ArgumentParser(description="Minutes until the valid accuracy stays above a threshold.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--root")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30, help="of ours (default: 30)")
    parser.add_argument("--peer-epochs", type=int, help="of the peer's loop (default: as ours)")
    parser.add_argument("--threshold", type=float, default=0.97, help="accuracy, 0 to 1 (default: 0.97)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--also", default="", help="more options of train.py, such as '--optimizer adamw'")
    parser.add_argument("--table", action="store_true", help="run nothing")
    keep_option(parser, "accuracy_time")
    args = parser.parse_args()
    args.peer_epochs = args.peer_epochs or args.epochs
    path = RESULTS / f"{args.keep}.csv"
    runs = pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame(columns=[*KEY, "machine"])
    if not args.table:
        runs = run(args, runs, path)
    keep(args.keep, ["; ".join(runs["machine"].unique()), "", *tables(runs, args.threshold)][:-1])


def run(args: argparse.Namespace, runs: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Do the missing runs and write each to ``path`` when it has ended; returns all runs."""
    hardware = choose_hardware(precision="fp32")  # the peer's; train.py chooses its own
    parsed = arguments().parse_args(options(args))
    preprocessing = Preprocessing(64, 128, args.size, "cell")
    batch = chosen_settings(args.model, parsed, parsed.given, hardware, preprocessing).batch_size
    for seed in range(args.seeds):
        sides = (("ours", args.epochs, args.also), ("peer", args.peer_epochs, f"--batch-size {batch}"))
        for who, epochs, more in sides:
            key = [data_name(args.data), args.model, args.size, epochs, who, seed, more]
            if (runs[KEY].astype(str) == [str(value) for value in key]).all(axis=1).any():
                continue
            before, ended, accuracy = ours(args, seed) if who == "ours" else peers(args, seed, batch, hardware)
            row: dict[str, object] = dict(zip(KEY, key, strict=True))
            row["machine"] = describe(load=False)
            row["before"] = f"{before:.1f}"
            row["ended"] = " ".join(f"{seconds:.1f}" for seconds in ended)
            row["accuracy"] = " ".join(f"{value:.5f}" for value in accuracy)
            print(row, flush=True)
            runs = pd.concat([runs, pd.DataFrame([row])], ignore_index=True)
            write_whole(path, runs.to_csv(index=False, lineterminator="\n"))
    return runs


if __name__ == "__main__":
    main()
