"""Time to accuracy: minutes until the valid accuracy stays at 97 % or above, ours against the loop that a peer writes.

    python benchmarks/accuracy_time.py --data csv/sample --size 32 --epochs 4 --threshold 0.7          # whether it runs
    python benchmarks/accuracy_time.py --data ../shared/data/all4 --size 80 --epochs 10 --peer-epochs 30 --seeds 3 \\
        --also "--progressive --optimizer adamw --lr 0.002" --keep accuracy_time
    python benchmarks/accuracy_time.py --keep accuracy_time --table                                    # only the table

An accuracy stays from the first epoch from which on every epoch to the end of the run is at the threshold or above; a run whose
last epoch is below never got there, and its time is not guessed. Ours is train.py with its own defaults and the options of
``--also``, in an empty folder, so that its minutes hold all from the start of the command on: imports, checks, decoding into the
store, figures, checkpoints. The peer's is torchvision's network, float32, SGD with momentum 0.9 at a constant 0.01, flips and
rotation by up to 20°, Pillow per image in a DataLoader with as many workers as cores, and the last step's weights measured on
valid after each epoch; same images, window, size and batch. Its minutes begin when the lists have been read and torch imported.

Each finished run is a row of a file beside the table, and is not run again: ``machine`` is where it ran, ``before`` are the
seconds before its first epoch, ``ended`` those from the start to the end of each epoch, ``accuracy`` those on valid. The table
holds medians over the seeds.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.machine import describe, keep, keep_option
from benchmarks.step import Files, peers_network, peers_step
from lab.checkpoints.checkpoint import read_about
from lab.data.batches import EVALUATION_BATCH
from lab.data.lists import data_name, find_folder, read_data_set, read_lists
from lab.data.preprocessing import Preprocessing, choose_preprocessing
from lab.files import write_whole
from lab.hardware import Hardware, choose_hardware, decoding_threads
from lab.training.recipe import chosen_settings
from train import arguments

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
KEY = ["data", "model", "size", "epochs", "who", "seed", "options"]
FLIPS_AND_ROTATION = [
    transforms.RandomHorizontalFlip(),
    transforms.RandomVerticalFlip(),
    transforms.RandomRotation(20),
]
# Of a run: seconds before its first epoch, and per epoch the seconds from the start to its end and the accuracy on valid.
Course = tuple[float, list[float], list[float]]


def ours(args: argparse.Namespace, seed: int) -> Course:
    """A training by ``train.py`` in an empty folder; an epoch ends when its line of results is printed."""
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
        raise RuntimeError(f"train.py printed the results of {len(ended)} epochs, its history holds {len(history)}")
    return ended[0] - history[0]["seconds"], ended, [epoch["valid_accuracy"] for epoch in history]


def options(args: argparse.Namespace) -> list[str]:
    """What ``train.py`` is given, but for the seed."""
    places = ["--data", str(find_folder(args.data).resolve())]
    places += ["--root", str(Path(args.root).resolve())] if args.root else []
    run = ["--model", args.model, "--epochs", str(args.epochs), "--size", str(args.size)]
    return [*places, *run, *args.also.split()]


def peers(args: argparse.Namespace, seed: int, batch: int, hardware: Hardware) -> Course:
    """The loop that a peer writes, in this process."""
    data = read_data_set(args.data, args.root)
    lists = read_lists(data, ("train", "valid"))
    window = choose_preprocessing(lists["train"], args.size, arguments().parse_args(options(args)).window).window
    began = time.perf_counter()
    torch.manual_seed(seed)
    network, optimizer = peers_network(args.model, hardware, len(data.classes))
    workers = decoding_threads()
    train = DataLoader(
        Files(lists["train"], window, args.size, FLIPS_AND_ROTATION),
        min(batch, len(lists["train"])),
        shuffle=True,
        num_workers=workers,
        drop_last=True,
    )
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
    """The epoch (from 0) from which on the accuracy is at the threshold or above to the end of the run; else None."""
    below = [epoch for epoch, value in enumerate(accuracy) if value < threshold]
    first = below[-1] + 1 if below else 0
    return first if first < len(accuracy) else None


def numbers(cells: pd.Series) -> list[list[float]]:
    """Cells of the table of runs, each of numbers separated by spaces."""
    return [[float(number) for number in str(cell).split()] for cell in cells]


def tables(runs: pd.DataFrame, threshold: float) -> list[str]:
    """A table for each data set, network and size: our runs and the peer's, with the ratio of the medians to each peer's."""
    lines: list[str] = []
    for (data, model, size), part in runs.groupby(KEY[:3], sort=False):
        lines += [f"### {model} on {data}, {size} px, until valid stays at {100 * threshold:g} % or above", ""]
        lines += [
            "| who | epochs | seeds | got there | minutes | before epoch 1 | in epoch | last epoch | whole run | an epoch |"
        ]
        lines += ["|---" * 10 + "|"]
        minutes: dict[str, list[tuple[str, float, float]]] = {"ours": [], "peer": []}
        for (epochs, who, given), rows in part.groupby(["epochs", "who", "options"], sort=False):
            ended, accuracy = numbers(rows["ended"]), numbers(rows["accuracy"])
            reached = [stays(values, threshold) for values in accuracy]
            pairs = list(zip(ended, reached, strict=True))
            times = [math.inf if epoch is None else seconds[epoch] / 60 for seconds, epoch in pairs]
            # A run that did not get there would have taken longer than it went on.
            least = statistics.median(seconds[-1 if epoch is None else epoch] / 60 for seconds, epoch in pairs)
            middle = statistics.median(times)  # infinite where half of the runs or more did not get there
            epoch = statistics.median(math.inf if epoch is None else epoch + 1 for epoch in reached)
            last = 100 * statistics.median(values[-1] for values in accuracy)
            whole = statistics.median(seconds[-1] / 60 for seconds in ended)
            # Training and validation, and all else that belongs to an epoch.
            paces = [
                (seconds[-1] - float(before)) / len(seconds)
                for seconds, before in zip(ended, rows["before"], strict=True)
            ]
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
                said = f"{middle / taken:.1f} times" if middle < math.inf else f"more than {least / taken:.1f} times"
                why = "" if middle < math.inf else ": that had not got there when it ended"
                lines += [f"{mine}: {said} sooner than {theirs}{why}.", ""]
    return lines


def main() -> None:
    """Run what is missing, ours and the peer's in turn, then write the table."""
    parser = argparse.ArgumentParser(description="Minutes until the valid accuracy stays above a threshold.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--root")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30, help="of ours (default: 30)")
    parser.add_argument(
        "--peer-epochs", type=int, help="of the peer's, whose course does not depend on it (default: as ours)"
    )
    parser.add_argument("--threshold", type=float, default=0.97, help="accuracy, 0 to 1 (default: 0.97)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--also", default="", help="more options of train.py, such as '--optimizer adamw'")
    parser.add_argument("--table", action="store_true", help="run nothing")
    keep_option(parser, "accuracy_time")
    args = parser.parse_args()
    args.peer_epochs = args.peer_epochs or args.epochs
    kept = RESULTS / f"{args.keep}.csv"
    runs = pd.read_csv(kept, keep_default_na=False) if kept.is_file() else pd.DataFrame(columns=[*KEY, "machine"])
    if not args.table:
        runs = run(args, runs, kept)
    keep(args.keep, ["; ".join(runs["machine"].unique()), "", *tables(runs, args.threshold)][:-1])


def run(args: argparse.Namespace, runs: pd.DataFrame, kept: Path) -> pd.DataFrame:
    """The runs so far and those that were missing, each kept as soon as it has ended."""
    hardware = choose_hardware(precision="fp32")  # the peer's; train.py chooses its own
    given = arguments().parse_args(options(args))
    preprocessing = Preprocessing(64, 128, args.size, "cell")
    batch = chosen_settings(args.model, given, given.given, hardware, preprocessing).batch_size
    for seed in range(args.seeds):
        for who, epochs, said in (
            ("ours", args.epochs, args.also),
            ("peer", args.peer_epochs, f"--batch-size {batch}"),
        ):
            key = [data_name(args.data), args.model, args.size, epochs, who, seed, said]
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
            write_whole(kept, runs.to_csv(index=False, lineterminator="\n"))
    return runs


if __name__ == "__main__":
    main()
