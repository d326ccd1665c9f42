"""Accuracy on valid over training time of the runs under report/results: writes docs/accuracy.md and its figure.

python -m benchmarks.curves
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.machine import PROJECT, table_head
from lab.checkpoints.histories import read_histories
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, save
from lab.files import write_whole
from models.catalog import find

RESULTS = PROJECT / "report" / "results"
DOCUMENT, FIGURE = PROJECT / "docs" / "accuracy.md", PROJECT / "docs" / "accuracy.png"
# The project's aims: accuracy on valid in % of a single network.
AIMS = {
    "all4": {"resnet18": 99.6, "resnet50": 99.6, "resnet152": 99.4},
    "pbc8": {"resnet18": 98.9, "resnet50": 98.8, "resnet152": 98.4},
}
ERRORS, MINUTES = (0.5, 1, 2, 3, 5, 10, 20, 40), (1, 2, 5, 10, 20, 50, 100)

HEAD = """# Accuracy: aims, and what was reached

Accuracy on valid in % of single networks trained from scratch: the best of the epochs, and the saved network as `predict.py` uses
it (with D4 averaging if it helped on valid). Both were chosen on valid. Published results for these data with weights from
ImageNet: PBC 98 (ViT, fine-tuned; ResNet18 at 128 px 98.34), ALL 98.2 (VGG-16). Intervals are Wilson's 95 % intervals. ALL has
479 valid images, so one image is 0.2 points. Each row is one run of one seed. All but PBC's ResNet50 were trained more than once,
with other recipes, and the table shows the best on valid, so it is optimistic. PBC's other runs reached 98.20 (ResNet18, 20
epochs at 64 px with SGD 0.05, 44 minutes on another CPU), 98.12 (ResNet18, 12 epochs up to 128 px with AdamW 0.002, 108
minutes), 97.93 (ResNet18, 16 epochs up to 64 px with SGD 0.05, 79 minutes) and 96.48 (ResNet152, 8 epochs up to 48 px, 114
minutes).
"""
TAIL = """
![Error on valid over training time](accuracy.png)

Each point is an epoch, each dotted line the aim of the depth of the same colour. The learning rate falls to zero in the last
epoch, so a longer run does not continue a shorter one. Minutes include the pauses that the README names.
`python -m benchmarks.curves` writes this page from the runs in [`report/results/`](../report/results).
"""


def draw(histories: dict[str, dict[str, pd.DataFrame]]) -> None:
    """Error over minutes, both on logarithmic axes, a panel for each data set."""
    figure = new_figure(9.6, 4.6, "")
    for number, (name, runs) in enumerate(histories.items()):
        axes = figure.add_subplot(1, len(histories), number + 1)
        for model, history in runs.items():
            colour, marker = find(model).colour, find(model).marker
            minutes = history["seconds"].cumsum() / 60
            error = 100 * (1 - history["valid_accuracy"])
            axes.plot(minutes, error, color=colour, marker=marker, ms=4.5, lw=1.6, clip_on=False)
            axes.axhline(100 - AIMS[name][model], color=colour, ls=":", lw=1.2)
        axes.set(xscale="log", yscale="log", ylim=(0.3, 50))
        for axis, ticks in ((axes.yaxis, ERRORS), (axes.xaxis, MINUTES)):
            axis.set_ticks(ticks)
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TICK)
        axes.set_title(name, fontsize=LABEL)
        axes.set_xlabel("Training time (minutes)", fontsize=LABEL)
        if number == 0:
            axes.set_ylabel("Error on valid (%)", fontsize=LABEL)
    rows = [find(model) for model in AIMS["all4"]]
    handles = [Line2D([], [], color=row.colour, marker=row.marker, label=row.title) for row in rows]
    handles.append(Line2D([], [], color=GREY, ls=":", label="aim, in the depth's colour"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)
    save(figure, FIGURE)


def main() -> None:
    """Draw the curves and write the page."""
    lines = table_head("data set | depth | px | epochs | minutes | aim | best of the epochs | as submitted")
    histories = {}
    for name, aims in AIMS.items():
        found = read_histories(RESULTS / name)
        histories[name] = {model: found[model] for model in aims}
        metrics = pd.read_csv(RESULTS / name / "metrics.csv")
        rows = metrics[(metrics["class"] == "overall") & (metrics["metric"] == "accuracy")].set_index("model")
        for model, aim in aims.items():
            history, row = histories[name][model], rows.loc[model]
            best, submitted = 100 * history["valid_accuracy"].max(), 100 * row["value"]
            reached = ", reached" if np.round(submitted, 2) >= aim else ""
            lines.append(
                f"| {name} | {find(model).short} | {history['size'].max()} | {len(history)} | "
                f"{history['seconds'].sum() / 60:.0f} | {aim:.1f}{reached} | {best:.2f} | "
                f"{submitted:.2f} ({100 * row['low']:.2f}–{100 * row['high']:.2f}) |"
            )
    draw(histories)
    write_whole(DOCUMENT, "\n".join([HEAD, *lines, TAIL]))
    print(f"written: {DOCUMENT.relative_to(PROJECT)}, {FIGURE.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
