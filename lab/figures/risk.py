"""Risk and coverage: what the predictions gain if the uncertain ones are left out."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from lab.evaluation.confidence import risk_and_coverage
from lab.evaluation.metrics import Results
from lab.figures.style import LABEL, SMALL, TICK, new_figure
from models.catalog import find

LEAST = 0.3  # coverage: a smaller share has few images, and its risk jumps


def risk_figure(results: Results, thresholds: Mapping[str, float], title: str = "") -> Figure:
    """Draw each model's share of errors (%) among its most confident predictions over their share of the images (%).

    ``results`` maps a model to labels (N,) and probabilities (N, K). A point marks the model's threshold, where ``thresholds``
    has one; predictions to the right of it are uncertain.
    """
    figure = new_figure(5.6, 4.4, title)
    axes = figure.add_subplot()
    highest = 0.0
    for model, (labels, probabilities) in results.items():
        row = find(model)
        confidence, coverage, risk = risk_and_coverage(labels, probabilities)
        shown = coverage >= LEAST
        highest = max(highest, 100 * risk[shown].max())
        text = f"{row.title}: {100 * risk[-1]:.2f} % of all"
        limit = thresholds.get(model, 0.0)
        if limit > 0 and (confidence >= limit).any():
            at = (confidence >= limit).nonzero()[0][-1]
            text += f", {100 * risk[at]:.2f} % of the certain {100 * coverage[at]:.1f} %"
            if shown[at]:
                axes.plot(100 * coverage[at], 100 * risk[at], row.marker, color=row.colour, ms=9, clip_on=False)
        axes.plot(100 * coverage[shown], 100 * risk[shown], color=row.colour, lw=2, drawstyle="steps-post", label=text)
    axes.set(xlim=(100 * LEAST, 100.5), ylim=(0, 1.15 * highest or 1))
    axes.set_xlabel("Coverage: most confident share of the images (%)", fontsize=LABEL)
    axes.set_ylabel("Risk: errors among them (%)", fontsize=LABEL)
    axes.grid(alpha=0.3, lw=0.6)
    axes.tick_params(labelsize=TICK)
    axes.spines[["top", "right"]].set_visible(False)
    note = "A point marks the threshold: predictions to the right of it are uncertain."
    figure.legend(title=note, title_fontsize=SMALL, loc="outside lower center", fontsize=TICK, frameon=False)
    return figure
