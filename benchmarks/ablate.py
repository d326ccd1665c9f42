"""Differences that single choices of the recipe make, over several seeds: the tables of docs/ablations.md.

    python benchmarks/ablate.py --data ../shared/data/all4 --model resnet18 --size 32 --epochs 8 --only optimizer
    python benchmarks/ablate.py --table              # only write docs/ablations.md from the runs so far

Every variant is train.py with other options, at the same seeds as the baseline, so that differences are paired. Each finished run
is a row of benchmarks/results/ablations.csv, and is not run again. Measured is the accuracy on valid after the last epoch
(no choice of the best), without and with D4 averaging of the best checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from scipy.stats import t as student

from benchmarks.machine import describe
from lab.checkpoint import read_about
from lab.files import write_whole
from lab.lists import data_name

PROJECT = Path(__file__).resolve().parent.parent
RUNS = PROJECT / "benchmarks" / "results" / "ablations.csv"
DOCUMENT = PROJECT / "docs" / "ablations.md"
KEY = ["data", "model", "size", "epochs", "group", "variant", "options", "also", "seed"]
# A group is a question; its first variant is the baseline that the others differ from.
GROUPS: dict[str, dict[str, str]] = {
    "optimizer": {
        "SGD 0.05": "--optimizer sgd --lr 0.05",
        "SGD 0.1": "--optimizer sgd --lr 0.1",
        "AdamW 0.002": "--optimizer adamw --lr 0.002",
        "AdamW 0.004": "--optimizer adamw --lr 0.004",
    },
    "averaged weights": {"decay 0.99": "--ema 0.99", "none": "--ema 0", "decay 0.98": "--ema 0.98"},
    "smoothing": {"0.1": "--smoothing 0.1", "none": "--smoothing 0", "0.05": "--smoothing 0.05"},
    "zero-init": {"yes": "--zero-init", "no": "--no-zero-init"},
    "size schedule": {"constant": "--no-progressive", "progressive": "--progressive"},
    "warm-up": {"1 epoch": "--warmup 1", "none": "--warmup 0", "2 epochs": "--warmup 2"},
}


def measure(args: argparse.Namespace, group: str, variant: str, seed: int) -> dict[str, object]:
    """One training; its row."""
    options = GROUPS[group][variant]
    row: dict[str, object] = {
        "data": data_name(args.data),
        "model": args.model,
        "size": args.size,
        "epochs": args.epochs,
    }
    row |= {"group": group, "variant": variant, "options": options, "also": args.also, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(PROJECT / "train.py"), "--data", args.data, "--model", args.model]
        command += ["--size", str(args.size), "--epochs", str(args.epochs), "--seed", str(seed), *options.split()]
        command += ["--weights", folder, "--report", folder, *args.also.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        about = read_about(Path(folder) / data_name(args.data) / args.model / "best.safetensors", args.model)
        row["last"] = about.history[-1]["test_accuracy"]
        row["best"], row["best_d4"] = about.metrics["valid_accuracy"], about.metrics["valid_accuracy_d4"]
        row["seconds"] = round(sum(epoch["seconds"] for epoch in about.history))
    return row


def difference(baseline: pd.Series, variant: pd.Series) -> str:
    """Mean of the paired differences in points, with its 95 % interval (Student's t); both indexed by seed."""
    points = 100 * (variant - baseline).dropna()
    if len(points) < 2:
        return f"{points.mean():+.2f}" if len(points) else ""
    half = student.ppf(0.975, len(points) - 1) * points.std(ddof=1) / np.sqrt(len(points))
    return f"{points.mean():+.2f} ± {half:.2f}"


def tables(runs: pd.DataFrame) -> list[str]:
    """A table for each question, data set and network."""
    lines: list[str] = []
    for (group, data, model, size, epochs, also), part in runs.groupby([*KEY[4:5], *KEY[:4], "also"], sort=False):
        title = f"### {str(group).capitalize()}: {model} on {data}, {size} px, {epochs} epochs"
        lines += [f"{title}, {also}" if also else title, ""]
        lines += ["| variant | options | seeds | last epoch | difference | best, D4 | difference | minutes |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        named = [name for name in GROUPS[str(group)] if name in set(part["variant"])]
        seeds = {name: part[part["variant"] == name].set_index("seed") for name in named}
        first = seeds[named[0]]
        for name, rows in seeds.items():
            cells = [name, f"`{rows['options'].iloc[0]}`", str(len(rows))]
            for column in ("last", "best_d4"):
                cells += [f"{100 * rows[column].mean():.2f}"]
                cells += ["baseline" if name == named[0] else difference(first[column], rows[column])]
            lines.append(f"| {' | '.join(cells)} | {rows['seconds'].mean() / 60:.1f} |")
        lines.append("")
    return lines


def main() -> None:
    """Run what is missing, then write the document."""
    parser = argparse.ArgumentParser(description="What single choices of the recipe are worth.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", choices=list(GROUPS), nargs="*", default=list(GROUPS), help="questions (default: all)"
    )
    parser.add_argument("--also", default="", help="options of train.py for every run, such as '--root DIR'")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    runs = pd.read_csv(RUNS, keep_default_na=False) if RUNS.is_file() else pd.DataFrame(columns=KEY)
    for seed in [] if args.table else range(args.seeds):
        for group in args.only:
            for variant, options in GROUPS[group].items():
                wanted = [data_name(args.data), args.model, args.size, args.epochs, group, variant]
                wanted += [options, args.also, seed]
                if (runs[KEY].astype(str) == [str(value) for value in wanted]).all(axis=1).any():
                    continue
                row = measure(args, group, variant, seed)
                print(row, flush=True)
                runs = pd.concat([runs, pd.DataFrame([row])], ignore_index=True)
                write_whole(RUNS, runs.to_csv(index=False, lineterminator="\n"))
    head = [
        "# What single choices of the recipe are worth",
        "",
        "Accuracy on valid in %, means over the seeds; differences in points from the first line of each table, paired by seed,",
        "with the 95 % interval of Student's t. `python benchmarks/ablate.py` measured them; an interval that holds 0 says that",
        f"so few seeds show nothing. Written on: {describe()}",
        "",
    ]
    write_whole(DOCUMENT, "\n".join(head + tables(runs)).rstrip() + "\n")
    print(f"written: {DOCUMENT}")


if __name__ == "__main__":
    main()
