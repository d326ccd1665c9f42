"""Reads and checks the files of a data set's training runs and evaluations.

A missing file is not an error: it leaves a gap, which is noted once with the command that writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lab.checkpoints.checkpoint import About, TrainingState, check_data, check_fields, read_about, with_threads
from lab.checkpoints.histories import best_row, read_histories
from lab.checkpoints.origin import origin_doubt, read_origin
from lab.data.lists import DataSet, ImageList
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError
from lab.evaluation.metrics import wilson
from lab.evaluation.valid_table import read_predictions
from lab.report.texts import Texts
from models.catalog import depths, resnets


class Gaps:
    """The list of what is missing, without duplicates, in the order of notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> str:
        """Note what is missing and what to do, and return the text."""
        if text not in self.texts:
            self.texts.append(text)
        return text


@dataclass
class Run:
    """One model on one data set. What was not found is None, and ``missing`` has the message for it.

    ``about`` is the description in the best checkpoint, or else that in run_<model>.json (without metrics). ``ids``, ``labels``
    (N,) and ``probabilities`` (N, K) are from evaluate.py on valid.csv; ``d4`` says whether they are averaged over D4, None if it
    was not recorded. ``log`` has the lines that the training printed, ``metrics`` those of the
    class overall in metrics.csv or metrics_<model>.csv.
    """

    model: str
    history: pd.DataFrame | None = None
    about: About | None = None
    ids: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    d4: bool | None = None
    log: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities of the evaluation, which must not be missing."""
        assert self.labels is not None and self.probabilities is not None
        return self.labels, self.probabilities

    @property
    def best(self) -> pd.Series | None:
        """The row of the best epoch in the history."""
        if self.history is None or not self.history["valid_accuracy"].notna().any():
            return None
        return self.history.iloc[best_row(self.history)]

    @property
    def accuracy(self) -> float | None:
        """The highest testing accuracy without D4 test-time augmentation; of an average of several networks, its own."""
        averaged = self.about is not None and self.about.members > 1
        if averaged or self.best is None:
            return self.about.metrics.get("valid_accuracy") if self.about else None
        return float(self.best["valid_accuracy"])

    @property
    def accuracy_d4(self) -> float | None:
        """The testing accuracy of the same weights with D4."""
        return self.about.metrics.get("valid_accuracy_d4") if self.about else None

    @property
    def size(self) -> int | None:
        """The network's input in px, which is that of the best epoch."""
        size = self.best.get("size", np.nan) if self.best is not None else np.nan
        if np.isfinite(size):
            return int(size)
        return self.about.preprocessing.size if self.about else None

    @property
    def images(self) -> int:
        """The number of evaluated images."""
        return len(self.result[0])

    @property
    def hits(self) -> int:
        """The number of correctly classified images."""
        labels, probabilities = self.result
        return int((probabilities.argmax(axis=1) == labels).sum())


def interval(run: Run) -> str:
    """The 95 % Wilson interval of the accuracy of an evaluation, in %."""
    low, high = wilson(run.hits, run.images)
    return f"{100 * low:.2f}–{100 * high:.2f}"


def read_runs(t: Texts, report: Path, weights: Path, command: Callable[[str, str], str], gaps: Gaps) -> dict[str, Run]:
    """The runs of the lab's three depths and of other ResNets with a history or an evaluation, in the order of depth.

    ``report`` and ``weights`` are the folders of the data set; ``command(script, model)`` is the command line of a script for a
    model. Raises :class:`UserError` for an invalid file.
    """
    histories = read_histories(report)
    others = {model for model in resnets() if model in histories or (report / f"valid_{model}.csv").is_file()}
    runs = {model: Run(model, histories.get(model)) for model in resnets() if model in others.union(depths())}
    for model, run in runs.items():
        train, best = command("train.py", model), weights / model / "best.safetensors"
        known = report / f"run_{model}.json"
        if run.history is None:
            run.missing["history"] = gaps.note(t("gap_file", file=f"history_{model}.csv", command=train))
        if best.is_file():
            run.about = read_about(best, model)
        elif known.is_file():
            run.about = read_description(known)
        if not best.is_file() and run.history is not None:
            gaps.note(t("gap_weights", model=model))
        log = report / f"log_{model}.txt"
        if log.is_file():
            run.log = log.read_text(encoding="utf-8", errors="replace").splitlines()
        read_evaluation(t, run, report / f"valid_{model}.csv", best, command, gaps)
    evaluated = [run for run in runs.values() if run.labels is not None]
    for run in evaluated[1:]:
        if run.ids != evaluated[0].ids or not np.array_equal(run.result[0], evaluated[0].result[0]):
            raise UserError(
                f"{report / f'valid_{run.model}.csv'}: is of another valid list than valid_{evaluated[0].model}.csv; "
                f"run {command('evaluate.py', 'all')} to evaluate all models on the same list."
            )
    return runs


def read_description(path: Path) -> About:
    """The description of a run in run_<model>.json, without metrics. Raises UserError if it is invalid."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        fields = {name: values[name] for name in ("model", "classes", "data", "lists", "settings", "records")}
        preprocessing = Preprocessing.from_dict(values["preprocessing"])
        about = About(preprocessing=preprocessing, threads=values.get("threads", []), **fields)
        check_fields(about, TrainingState())
        return with_threads(about)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not what train.py writes ({error!r}); train again, or delete it.") from None


def read_evaluation(t: Texts, run: Run, path: Path, best: Path, command: Callable[[str, str], str], gaps: Gaps) -> None:
    """Read valid_<model>.csv into ``run``, or note that it is missing or of other weights."""
    evaluate = command("evaluate.py", "all")
    if not path.is_file():
        if best.is_file() or run.history is not None:
            run.missing["valid"] = gaps.note(t("gap_file", file=path.name, command=evaluate))
        else:
            run.missing["valid"] = run.missing["history"]
        return
    if best.is_file() and (doubt := origin_doubt(path, best)):
        run.missing["fresh"] = gaps.note(t("gap_stale", file=path.name, doubt=doubt, command=evaluate))
    table = read_predictions(path, evaluate)
    run.ids, run.labels, run.probabilities = table.ids, table.labels, table.probabilities
    run.d4 = read_origin(path).get("d4")


def check_lists(runs: dict[str, Run], data: DataSet, valid: ImageList, weights: Path, report: Path) -> None:
    """Raise UserError if a run or an evaluation is of other lists than ``data``'s: those of a folder of the same name."""
    for model, run in runs.items():
        best = weights / model / "best.safetensors"
        if run.about is not None:
            check_data(best if best.is_file() else report / f"run_{model}.json", run.about, data)
        if run.labels is not None and run.ids != valid.ids:
            table = report / f"valid_{model}.csv"
            raise UserError(
                f"{table}: is of another list than {valid.csv}; run evaluate.py again, or give other --report."
            )


def read_metrics(t: Texts, runs: dict[str, Run], report: Path, evaluate: str, gaps: Gaps) -> None:
    """Read the metrics over all classes in metrics.csv and metrics_<model>.csv, the newer one last; note if none are those of the
    predictions in valid_<model>.csv."""
    for model, run in runs.items():
        if run.labels is None:
            continue
        other = ""
        paths = [path for path in (report / "metrics.csv", report / f"metrics_{model}.csv") if path.is_file()]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime):
            table = pd.read_csv(path)
            if not {"model", "class", "metric", "value"} <= set(table.columns):
                raise UserError(f"{path}: is not what evaluate.py writes; run {evaluate} again.")
            rows = table[(table["class"] == "overall") & (table["model"] == model)].set_index("metric")["value"]
            # Probabilities have five decimals, so that the class of one image with a tie may differ.
            if "accuracy" in rows and abs(run.hits / run.images - float(rows["accuracy"])) <= 1.5 / run.images:
                run.metrics = {str(name): float(value) for name, value in rows.dropna().items()}
            elif "accuracy" in rows:
                other = path.name
        if other and not run.metrics:
            gaps.note(t("gap_metrics", metrics=other, file=f"valid_{model}.csv", command=evaluate))
