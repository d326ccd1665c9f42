"""The effect of single choices of the recipe, over several seeds: writes docs/ablations.md.

    python -m benchmarks.ablate --data ../shared/data/all4 --model resnet18 --size 32 --epochs 8 --only optimizer
    python -m benchmarks.ablate --data ../shared/data/pbc8 --size 32 --epochs 4 --every 5   # a fifth of the images
    python -m benchmarks.ablate --table              # only write docs/ablations.md from the runs so far

Each variant is a run of train.py with other options and the seeds of the base, so that differences are paired. Each finished run
is a row of benchmarks/results/ablations.csv and is not repeated. The accuracy on valid is measured after the last epoch, which
involves no choice, and for the best checkpoint without and with D4 averaging; with --changed also on images changed as by
studies.robustness, a mean over the changes and their strengths.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from benchmarks.machine import PROJECT, describe, table_head
from lab.checkpoints.checkpoint import read_about
from lab.data.lists import data_name
from lab.files import write_whole
from lab.text import counted

RUNS = PROJECT / "benchmarks" / "results" / "ablations.csv"
DOCUMENT = PROJECT / "docs" / "ablations.md"
KEY = ["data", "model", "size", "epochs", "also", "options", "seed"]
# The options of every run, so that the tables do not depend on defaults. A variant's options follow and override them.
BASE = "--optimizer adamw --lr 0.002 --warmup 1 --ema 0.99 --smoothing 0.1 --zero-init --no-progressive"
BASE += " --augmentation geometry,colour"
# Answers that are not options of train.py, see PATCHES.
CONSTANT = "constant learning rate"
EVERY_STEP = "moved at every step, not every fourth"
MORE_COLOUR, MOST_COLOUR = "density ±25 %, gain ±15 %", "density ±40 %, gain ±30 %"
# Questions and their answers: options in addition to BASE.
GROUPS: dict[str, dict[str, str]] = {
    "augmentation": {
        "none": "--augmentation none",
        "no colour": "--augmentation geometry",
        "flips and quarter turns alone": "--augmentation d4,colour",
        "and mixup": "--augmentation geometry,colour,mixup",
        "and CutMix": "--augmentation geometry,colour,cutmix",
    },
    "colour": {"twice as strong": MORE_COLOUR, "four times as strong": MOST_COLOUR},
    "optimizer": {
        "SGD 0.05": "--optimizer sgd --lr 0.05",
        "SGD 0.1": "--optimizer sgd --lr 0.1",
        "AdamW 0.004": "--lr 0.004",
        "AdamW 0.001": "--lr 0.001",
    },
    # Larger batches are faster per image on some CPUs. The learning rate grows with the square root of the batch, or not.
    "batch": {
        "128 images, learning rate doubled": "--batch-size 128 --lr 0.004",
        "128 images": "--batch-size 128",
    },
    "averaged weights": {"none": "--ema 0", EVERY_STEP: EVERY_STEP},
    "smoothing": {"none": "--smoothing 0"},
    "zero-init": {"no": "--no-zero-init"},
    # Progressive resizing needs more than 32 px, the smallest input.
    "size": {"48 px": "--size 48", "48 px, progressive": "--size 48 --progressive"},
    "window": {"160 px": "--window 160"},
    "schedule": {"constant after the warm-up": CONSTANT},
}

HEAD = """# What single choices of the recipe are worth

Accuracy on valid in %, means over the seeds. Differences are in points from the base, paired by seed, for three seeds or more
with the 95 % interval of Student's t. A difference whose interval contains 0, or of fewer than three seeds, is no evidence.
`python -m benchmarks.ablate` measured them beside other work, so minutes are upper bounds. `pbc8_every8` is every eighth image
of that data set. "Changed images" are those of [`studies/robustness.py`](../studies/robustness.py): the mean accuracy over all
its changes and strengths.

These runs are short (the default is 30 epochs) and use small images. The shortest favour what learns fastest: without
augmentation, accuracy is higher after 6 epochs and lower after 15. So the longest runs of a question count, and no default has
been changed for a difference whose interval contains 0.

| default | result |
|---|---|
| `--augmentation geometry,colour` | supported on ALL by the runs of 15 epochs; mixup and CutMix cost accuracy there, at 6 |
| optical density ±12 %, gain ±6 % | on ALL, at 12 epochs, four times as much costs accuracy, and gains it on changed images |
| `--zero-init` | no difference at 15 epochs |
| SGD at 0.05, not AdamW | no difference measured |
| 32 images per batch on a CPU | on PBC, at 6 epochs, 128 images cost accuracy and take 0.8 of the time |
| cosine schedule, averaged weights, smoothing | no difference measured |
| measured window | a narrower one costs accuracy on ALL after the last epoch; no difference on PBC |
| `predict.py --d4 auto` | averaging helps in some set-ups only, so it is measured on valid for each run |
| 64 px on a CPU, 128 on a GPU | 48 px has higher means than 32; on PBC with D4 the interval excludes 0 |
| `--progressive` from ResNet50 on | not supported: on PBC, at 4 epochs, it costs accuracy; it saves time |
"""

COLOUR = "from lab.data import augmentation\naugmentation.STAIN, augmentation.BRIGHTNESS = {}, {}"
# Python code that runs before train.py, for answers that are not options of it.
PATCHES = {
    # The learning rate stays at its peak after the warm-up.
    CONSTANT: """
from lab.training import recipe
cosine = recipe.learning_rate
recipe.learning_rate = lambda step, steps, settings: (
    cosine(step, steps, settings) if step < settings.warmup * steps else settings.lr
)
""",
    EVERY_STEP: "from lab.training import ema\nema.interval = lambda decay, steps: 1",
    MORE_COLOUR: COLOUR.format(0.25, 0.15),
    MOST_COLOUR: COLOUR.format(0.4, 0.3),
}
TRAIN = "import runpy, sys\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"


def thinned(folder: Path, every: int, target: Path) -> list[str]:
    """Write lists of every ``every``-th image of those in ``folder``; returns the options of train.py for them."""
    data = target / f"{folder.name}_every{every}"
    data.mkdir()
    for name in ("train", "valid"):
        pd.read_csv(folder / f"{name}.csv", dtype=str).iloc[::every].to_csv(data / f"{name}.csv", index=False)
    if (folder / "classes.csv").is_file():
        shutil.copy(folder / "classes.csv", data)
    return ["--data", str(data), "--root", str(folder)]


def measure(args: argparse.Namespace, options: str, seed: int) -> dict[str, object]:
    """Train once; returns the run's row."""
    key = [named(args), args.model, args.size, args.epochs, args.also, options, seed]
    row: dict[str, object] = dict(zip(KEY, key, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        data = ["--data", args.data] if args.every == 1 else thinned(Path(args.data), args.every, Path(folder))
        patch = PATCHES.get(options)
        command = [sys.executable, *(["-c", f"{patch}\n{TRAIN}"] if patch else []), str(PROJECT / "train.py")]
        command += ["--size", str(args.size), "--epochs", str(args.epochs), "--seed", str(seed), *BASE.split()]
        command += [] if patch else options.split()
        common = [*data, "--model", args.model, "--weights", folder, "--report", folder]
        silently([*command, *common, *args.also.split()])
        if args.changed:
            silently([sys.executable, "-m", "studies.robustness", *common])
            changes = pd.read_csv(Path(folder) / named(args) / f"robustness_{args.model}.csv")
            row["changed"] = changes.loc[changes["change"] != "none", "accuracy"].mean()
        about = read_about(Path(folder) / named(args) / args.model / "best.safetensors", args.model)
        row["last"] = about.history[-1]["valid_accuracy"]
        row["best"], row["best_d4"] = about.metrics["valid_accuracy"], about.metrics["valid_accuracy_d4"]
        row["machine"] = describe(load=False)
        row["seconds"] = round(sum(epoch["seconds"] for epoch in about.history))
    return row


def silently(command: list[str]) -> None:
    """Run a program of the project."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def named(args: argparse.Namespace) -> str:
    """The data set's name, with a suffix if only a part of it is used."""
    return data_name(args.data) + (f"_every{args.every}" if args.every > 1 else "")


def difference(baseline: pd.Series, variant: pd.Series) -> str:
    """Mean of the paired differences in points, for three seeds or more with its 95 % interval; both are indexed by seed."""
    points = 100 * (variant - baseline).dropna()
    if len(points) < 3:
        return f"{points.mean():+.2f}" if len(points) else ""
    half = student.ppf(0.975, len(points) - 1) * points.std(ddof=1) / np.sqrt(len(points))
    return f"{points.mean():+.2f} ± {half:.2f}"


def tables(runs: pd.DataFrame) -> list[str]:
    """A table for each data set, network, size and number of epochs: the base, then the answers to each question."""
    lines: list[str] = []
    for (data, model, size, epochs, also), part in runs.groupby(KEY[:5], sort=False):
        lines += [f"### {model} on {data}, {size} px, {epochs} epochs{also and f', {also}'}", ""]
        columns = {"last": "last epoch", "best_d4": "best, D4", "changed": "changed images"}
        columns = {name: title for name, title in columns.items() if part[name].notna().any()}
        heads = " | ".join(f"{title} | difference" for title in columns.values())
        lines += table_head(f"question | answer | seeds | {heads} | minutes")
        seeds = {options: rows.set_index("seed") for options, rows in part.groupby("options")}
        answers = [(group, *answer) for group, answers in GROUPS.items() for answer in answers.items()]
        for group, name, options in [("base", "", ""), *answers]:
            if options not in seeds or "" not in seeds:
                continue
            rows = seeds[options]
            cells = [group, f"{name} `{options}`" if options else f"`{BASE}`", str(len(rows))]
            for column in columns:
                cells += [f"{100 * rows[column].mean():.2f}"]
                cells += [difference(seeds[""][column], rows[column]) if options else ""]
            lines.append(f"| {' | '.join(cells)} | {rows['seconds'].mean() / 60:.1f} |")
        # The same networks with and without D4 averaging; the runs of a seed are averaged, because they are not independent.
        gain = difference(*(part.groupby("seed")[column].mean() for column in ("best", "best_d4")))
        lines += [
            "",
            f"D4 averaging of the best checkpoints of {counted(len(part), 'run')}, by seed: {gain} points.",
            "",
        ]
        lines += [f"Measured on: {'; '.join(part['machine'].unique())}.", ""]
    return lines


def main() -> None:
    """Do the missing runs, then write the document."""
    parser = argparse.ArgumentParser(description="The effect of single choices of the recipe.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=1, help="use every N-th image of the lists only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="*", default=list(GROUPS), help="questions, or answers as 'augmentation:none' (default: all)"
    )
    parser.add_argument("--also", default="", help="options of train.py for every run, such as '--root DIR'")
    parser.add_argument("--changed", action="store_true", help="predict changed images too, as studies.robustness does")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    runs = pd.read_csv(RUNS, dtype={"also": str, "options": str}) if RUNS.is_file() else pd.DataFrame()
    runs = runs.reindex(columns=[*KEY, "last", "best", "best_d4", "changed", "seconds", "machine"])
    runs[["also", "options"]] = runs[["also", "options"]].fillna("")
    wanted = [""]
    for group, _, answer in (name.partition(":") for name in args.only):
        if group not in GROUPS or (answer and answer not in GROUPS[group]):
            parser.error(f"--only {group}{answer and f':{answer}'}: no such question or answer; there are {GROUPS}")
        wanted += [GROUPS[group][answer]] if answer else GROUPS[group].values()
    for seed in [] if args.table else range(args.seeds):
        for options in wanted:
            key = [named(args), args.model, args.size, args.epochs, args.also, options, seed]
            if (runs[KEY].astype(str) == [str(value) for value in key]).all(axis=1).any():
                continue
            row = measure(args, options, seed)
            print(row, flush=True)
            runs = pd.concat([runs, pd.DataFrame([row])], ignore_index=True)
            write_whole(RUNS, runs.to_csv(index=False, lineterminator="\n"))
    write_whole(DOCUMENT, "\n".join([HEAD, *tables(runs)]).rstrip() + "\n")
    print(f"written: {DOCUMENT}")


if __name__ == "__main__":
    main()
