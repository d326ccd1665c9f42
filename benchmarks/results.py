"""The README's table of results, from the files committed under report/results/.

python -m benchmarks.results
"""

from __future__ import annotations

import sys

import pandas as pd

from benchmarks.machine import PROJECT, table_head
from lab.checkpoints.histories import read_histories
from models.catalog import find

RESULTS = PROJECT / "report" / "results"


def main() -> None:
    """Print a row per data set and depth: size, epochs, training time, best valid accuracy, accuracy by evaluate.py."""
    head = "data set | depth | px | epochs | training | best of the epochs | as submitted (95 % interval)"
    print(*table_head(head), sep="\n")
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        if not (folder / "metrics.csv").is_file():
            print(f"{folder}: no metrics.csv, left out; evaluate.py writes it", file=sys.stderr)
            continue
        metrics = pd.read_csv(folder / "metrics.csv")
        rows = metrics[(metrics["class"] == "overall") & (metrics["metric"] == "accuracy")].set_index("model")
        for model, history in read_histories(folder).items():
            if not find(model).depth:  # studies.compare has a table of all systems
                continue
            accuracy = "not evaluated"
            if model in rows.index:
                row = rows.loc[model]
                accuracy = f"{100 * row['value']:.2f} ({100 * row['low']:.2f}–{100 * row['high']:.2f})"
            print(
                f"| {folder.name} | {find(model).short} | {history['size'].max()} | {len(history)} | "
                f"{history['seconds'].sum() / 60:.0f} min | {100 * history['valid_accuracy'].max():.2f} | {accuracy} |"
            )


if __name__ == "__main__":
    main()
