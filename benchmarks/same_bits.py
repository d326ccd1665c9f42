"""Train with two versions of the code and compare their weights bit for bit.

    python -m benchmarks.same_bits bdaa0bd              # that commit against the working tree
    python -m benchmarks.same_bits bdaa0bd --epochs 4 --model resnet50

Both train on the sample images at 32 px from the same seed, with SGD and with AdamW, in one process and in two. The comparison
covers all tensors of the best and the last checkpoint, including the optimizer's state, and the accuracies and losses of the
history.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

from benchmarks.machine import PROJECT, describe, keep, keep_option, table_head

SAMPLE = ["--train", "96", "--valid", "24", "--test", "12"]
RUN = ["--size", "32", "--batch-size", "16", "--device", "cpu", "--precision", "fp32", "--fresh"]


def main() -> None:
    """Train each pair of runs and write one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=3)
    keep_option(parser, "same_bits")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        before, folder = Path(temporary, "before"), Path(temporary, "runs")
        subprocess.run(["git", "-C", PROJECT, "worktree", "add", "-q", "--detach", before, args.revision], check=True)
        try:
            folder.mkdir()
            execute(folder, PROJECT / "prepare.py", "sample", "--out", "csv/sample", *SAMPLE)
            rows = [compare(folder, before, args, kind, count) for kind in ("sgd", "adamw") for count in (1, 2)]
        finally:
            subprocess.run(["git", "-C", PROJECT, "worktree", "remove", "--force", before], check=True)
    head = f"{args.model}, {args.epochs} epochs at 32 px on generated cells, {args.revision} against the working tree"
    table = table_head("optimizer | processes | tensors | tensors that differ | history")
    keep(args.keep, [describe(), head, "", *table, *rows])


def compare(folder: Path, before: Path, args: argparse.Namespace, optimizer: str, processes: int) -> str:
    """Train both versions; returns a row of the table."""
    outputs = []
    for name, code in (("before", before), ("after", PROJECT)):
        folders = [f"{name}-{optimizer}-{processes}-{kind}" for kind in ("weights", "report")]
        options = ["--data", "csv/sample", "--weights", folders[0], "--report", folders[1], "--optimizer", optimizer]
        options += ["--model", args.model, "--epochs", str(args.epochs), *RUN]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        execute(folder, *(launcher if processes > 1 else []), code / "train.py", *options)
        outputs.append([folder / output / "sample" for output in folders])
    (one, one_report), (other, other_report) = outputs
    count, differ = 0, []
    for name in ("best", "last"):
        expected, found = (load_file(run / args.model / f"{name}.safetensors") for run in (one, other))
        count += len(expected)
        differ += [key for key in expected.keys() | found.keys() if not same(expected.get(key), found.get(key))]
    histories = (pd.read_csv(report / f"history_{args.model}.csv") for report in (one_report, other_report))
    # By position, because a column may have been renamed. Not all versions have precision, recall and F1.
    left_out = ["seconds", "images_per_second", "valid_precision", "valid_recall", "valid_f1"]
    numbers = [history.drop(columns=left_out, errors="ignore").to_numpy() for history in histories]
    history = "the same" if (numbers[0] == numbers[1]).all() else "differs"
    return f"| {optimizer} | {processes} | {count} | {len(differ)} | {history} |"


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether both tensors exist and have the same dtype, shape and bits."""
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one, other)


def execute(folder: Path, *arguments: str | Path) -> None:
    """Run ``python ARGUMENTS`` in ``folder``. If it fails, print its output and exit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    main()
