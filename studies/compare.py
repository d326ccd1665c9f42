"""Compare all systems that were trained or fitted on a data set: one table and one figure.

    python -m studies.compare --data csv/sample                          # what is in report/sample
    python -m studies.compare --data pbc8 --report report/results        # what is in report/results/pbc8

A system is every valid_<system>.csv in the folder. Its row also needs run_<system>.json or history_<system>.csv, so that rows
from several machines stand together. Writes compare.csv, compare.md and compare.png into the same folder. The images per second
are measured here, for all systems in one run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.options import add_machine, add_places, add_quiet, add_report, parse


def arguments() -> argparse.ArgumentParser:
    """The options and their defaults."""
    parser = argparse.ArgumentParser(description="Compare all systems of a data set: one table and one figure.")
    add_places(parser)
    add_report(parser)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before torch is imported."""
    from lab.data.lists import data_name, find_folder
    from lab.errors import UserError

    folder = args.report / data_name(find_folder(args.data, args.root, ("train", "valid")))
    if not any(folder.glob("valid_*.csv")):
        raise UserError(f"{folder}: there is no valid_<system>.csv; train and evaluate a model first (evaluate.py).")


ARGS = parse(arguments, __name__, check_paths)

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score
from statsmodels.stats.multitest import multipletests
from torch import nn

from lab.checkpoints.histories import best_row, read_histories
from lab.checkpoints.origin import read_origin
from lab.data.batches import EVALUATION_BATCH
from lab.data.lists import DataSet, list_digest, read_data_set, read_lists
from lab.errors import UserError, run
from lab.evaluation.calibration import calibration
from lab.evaluation.inference import for_prediction, macro_scores, outputs
from lab.evaluation.metrics import auc_per_class, mcnemar, overall_auc, wilson
from lab.evaluation.valid_table import ValidTable, read_predictions_of
from lab.figures.comparison import comparison_figure
from lab.figures.style import save
from lab.files import write_whole
from lab.hardware import Hardware, choose_hardware, processor
from lab.terminal import progress
from lab.text import counted, duration, percent
from models import catalog
from studies.bases import NAMES, installed, without_classifier
from studies.features import HOG, SIDE, hog_of
from studies.systems import count, training_cost

REFERENCE = "resnet18"  # besides the best, what every system is tested against
SECONDS = 2.0  # of each measurement of speed
PUBLISHED = Path(__file__).with_name("published.csv")


def main(args: argparse.Namespace) -> None:
    """Read the systems, measure their speed, and write table and figure."""
    data = read_data_set(args.data, args.root)
    folder = args.report / data.name
    tables, images = read_tables(folder, data)
    hardware = choose_hardware(args.device, args.precision)
    rows = []
    described = {name: checked_description(name, folder, data, images) for name in tables}
    for name, found in progress(list(tables.items()), "measuring", unit=" systems"):
        row = {"system": name, **described[name], **scores(found)}
        rows.append(row | {"images_per_second": speed(row, len(data.classes), hardware)})
    table = pd.DataFrame(rows).sort_values(["accuracy", "log_loss"], ascending=[False, True], ignore_index=True)
    table = with_tests(table, tables)
    write_whole(folder / "compare.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    machine = (
        f"{hardware.describe()}, {processor()}, {hardware.precision}, {counted(torch.get_num_threads(), 'thread')}"
    )
    machine += f", load {os.getloadavg()[0]:.1f}"
    write_whole(folder / "compare.md", markdown(table, data, len(next(iter(tables.values())).ids), machine))
    save(comparison_figure(table, f"Systems on {data.name}, valid.csv"), folder / "compare.png")
    for one in table.to_dict("records"):
        print(f"{one['system']}: accuracy {percent(one['accuracy'])} ({100 * one['low']:.2f}–{100 * one['high']:.2f})")
    print(f"written to {folder}: compare.csv, compare.md, compare.png; {len(table)} systems, measured on {machine}")


# ---- read ----------------------------------------------------------------------------------------------------------------------


def read_tables(folder: Path, data: DataSet) -> tuple[dict[str, ValidTable], int]:
    """The predictions of each system, and the number of training images. Raises :class:`UserError` for a table of other images
    or labels than valid.csv's."""
    lists = read_lists(data, ("train", "valid"))
    valid, tables = lists["valid"], {}
    for path in sorted(folder.glob("valid_*.csv")):
        tables[path.stem.removeprefix("valid_")] = read_predictions_of(valid, path)
    return tables, len(lists["train"])


def checked_description(name: str, folder: Path, data: DataSet, images: int) -> dict[str, Any]:
    """:func:`describe`; a file with other types of values than ours is one sentence."""
    try:
        return describe(name, folder, data, images)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        file = folder / f"run_{name}.json"
        raise UserError(
            f"{file}: it, or history_{name}.csv beside it, is not what our commands write ({error!r}); train or fit the system "
            "again, or move its files."
        ) from None


def describe(name: str, folder: Path, data: DataSet, images: int) -> dict[str, Any]:
    """Title, base, input size, parameters, multiply-accumulates, training cost and machine of a system.

    The ``images`` are those of the training list. Raises :class:`UserError` if nothing describes the system.
    """
    path = folder / f"run_{name}.json"
    known = read_json(path)
    for field, own in (("classes", data.classes), ("lists", list_digest(data))):
        if known.get(field, own) != own:
            raise UserError(
                f"{path}: is of other {field} than those in {data.folder}; move it, or give other --report."
            )
    if "base" in known:
        fields = (
            "title",
            "base",
            "size",
            "parameters",
            "macs",
            "training_flop",
            "seconds",
            "device",
            "processor",
            "threads",
        )
        missing = [field for field in fields if field not in known]
        if missing:
            raise UserError(f"{path}: lacks {', '.join(missing)}; run the study that wrote it again.")
        return {field: known[field] for field in fields} | {"d4": known.get("settings", {}).get("d4", False)}
    if name not in catalog.names():
        raise UserError(f"valid_{name}.csv: {folder} has no run_{name}.json that describes the system; move the file.")
    return trained(name, folder, known, data, images)


def trained(name: str, folder: Path, known: Mapping[str, Any], data: DataSet, images: int) -> dict[str, Any]:
    """The description of a model that train.py trained: its cost follows from the history, the machine from the last record."""
    histories = {model: history for model, history in read_histories(folder).items() if model == name}
    if name not in histories or "size" not in histories[name]:
        raise UserError(f"{folder}: history_{name}.csv is missing, or has no column size; train the model again.")
    history, classes = histories[name], len(data.classes)
    size = int(history["size"].iloc[best_row(history)])
    parameters, macs = count(name, classes, size)
    record = (known.get("records") or [{}])[-1]
    return {
        "title": catalog.find(name).title,
        "base": name,
        "size": size,
        "parameters": parameters,
        "macs": macs,
        "training_flop": training_cost(name, classes, history["size"], images),
        "seconds": float(history["seconds"].sum()) if "seconds" in history else None,
        "device": record.get("device", ""),
        "processor": record.get("processor", ""),
        "threads": (known.get("threads") or [[0, None]])[-1][1],
        "d4": read_origin(folder / f"valid_{name}.csv").get("d4"),
    }


def read_json(path: Path) -> dict[str, Any]:
    """The content of a run's file; empty if there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); train or fit the system again.") from None


# ---- measure -------------------------------------------------------------------------------------------------------------------


def scores(table: ValidTable) -> dict[str, float]:
    """The metrics of a system on valid, fractions 0…1; precision, recall and F1 are macro averages."""
    labels, rows = table.labels, table.probabilities
    accuracy = float(accuracy_score(labels, rows.argmax(axis=1)))
    low, high = wilson(round(accuracy * len(labels)), len(labels))
    precision, recall, f1 = macro_scores(rows, labels)
    picked = rows[np.arange(len(labels)), labels]
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "auc": overall_auc(auc_per_class(labels, rows)),
        "log_loss": float(-np.log(picked.clip(1e-12)).mean()),
        "calibration_error": calibration(labels, rows).error,
    }


def speed(row: Mapping[str, Any], classes: int, hardware: Hardware) -> float | None:
    """Images per second of a system's base, one view of each image, from the normalised input on; None if it cannot be built
    here. The weights do not matter, so that no checkpoint is needed."""
    torch.manual_seed(0)
    if row["base"] == HOG:
        images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE), dtype=np.uint8)
        return repeated(lambda: [hog_of(image) for image in images], len(images), hardware)
    if row["base"] in catalog.names():
        network = catalog.build(row["base"], classes, row["size"])
    elif row["base"] in NAMES and installed(row["base"]):
        network = without_classifier(row["base"])
    else:
        return None
    return throughput(for_prediction(hardware.place(network), hardware), row["size"], hardware)


@torch.inference_mode()
def throughput(network: nn.Module, size: int, hardware: Hardware) -> float:
    """Images per second of a network in batches as for prediction, after one batch to warm up."""
    images = torch.randn(EVALUATION_BATCH, 3, size, size, device=hardware.device)
    return repeated(lambda: outputs(network, images, hardware), len(images), hardware)


def repeated(step: Callable[[], object], images: int, hardware: Hardware) -> float:
    """Images per second of a step of ``images``, repeated for :data:`SECONDS`, after one to warm up."""
    step()
    hardware.synchronise()
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < SECONDS:
        step()
        hardware.synchronise()
        done += images
    return done / (time.perf_counter() - began)


def with_tests(table: pd.DataFrame, tables: Mapping[str, ValidTable]) -> pd.DataFrame:
    """The table, whose first row is the best system, with the p values of McNemar's test against the best and against ResNet18.
    Each column is corrected for its number of tests (Holm 1979)."""
    for column, reference in (("p_best", table["system"].iloc[0]), ("p_resnet18", REFERENCE)):
        table[column] = np.nan
        others = [name for name in table["system"] if name != reference]
        if reference not in tables or not others:
            continue
        labels, first = tables[reference].labels, tables[reference].probabilities.argmax(axis=1)
        raw = [mcnemar(labels, tables[name].probabilities.argmax(axis=1), first)[2] for name in others]
        corrected = dict(zip(others, multipletests(raw, method="holm")[1], strict=True))
        table[column] = table["system"].map(corrected)
    return table


# ---- write ---------------------------------------------------------------------------------------------------------------------


def markdown(table: pd.DataFrame, data: DataSet, images: int, machine: str) -> str:
    """The table for people, and below it the figures that others published."""
    head = "system | px | accuracy, % | precision | recall | macro F1 | AUC | calibration error | parameters | MMAC | "
    head += "training, TFLOP | training time | images/s | p, best | p, ResNet18"
    lines = [
        f"# Systems on {data.name}",
        "",
        f"{images:,} images of valid.csv, with 95 % intervals (Wilson). Precision, recall and F1 are means over the classes "
        "(macro), in %. p: McNemar's exact test against the best system and against ResNet18, corrected by Holm for the number "
        "of systems. Epochs and settings were chosen on this list, so that all accuracies are slightly optimistic. So are the "
        "tests against the best system, which was chosen on the same images. One training each.",
        "",
        f"| {head} |",
        "|---" + "|---:" * head.count("|") + "|",
        *(f"| {' | '.join(cells(row))} |" for row in table.to_dict("records")),
        "",
        "Training: 6 floating-point operations for each multiply-accumulate of a trained layer, 2 of a frozen one, for each "
        "image seen; classical heads are not counted. The time is as recorded, perhaps beside other work. Images/s: one view of "
        f"each image, measured in one run on {machine}. A row marked D4 averages eight views, and takes eight times as long. "
        "Classical heads are timed without the head, and HOG in one process. The cost of ImageNet weights is not included. The "
        "probabilities of networks and of SVMs are at a temperature that was fitted on this list, except for older networks, "
        "whose row does not name the processor; those of the other heads are as fitted.",
    ]
    published = pd.read_csv(PUBLISHED)
    published = published[published["data"] == data.name]
    if len(published):
        lines += [
            "",
            "## Published by others",
            "",
            "From other splits of the same images, one training each, without intervals: not comparable with the table above to "
            "the last point.",
            "",
            "| system | accuracy, % | |",
            "|---|---:|---|",
            *(f"| {row['system']} | {row['accuracy']:g} | {row['note']} |" for row in published.to_dict("records")),
        ]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[Any, Any]) -> list[str]:
    """The cells of a row, as text; what is not known is a dash."""

    def number(name: str, form: str, factor: float = 1) -> str:
        return "–" if pd.isna(row[name]) else format(row[name] * factor, form)

    return [
        row["title"] + (", D4" if row["d4"] is True else ", D4 not recorded" if row["d4"] is None else ""),
        f"{row['size']}",
        f"**{100 * row['accuracy']:.2f}** ({100 * row['low']:.2f}–{100 * row['high']:.2f})",
        *(number(name, ".2f", 100) for name in ("precision", "recall", "f1")),
        *(number(name, ".4f") for name in ("auc", "calibration_error")),
        f"{row['parameters']:,}",
        number("macs", ",.1f", 1e-6),
        number("training_flop", ",.0f", 1e-12),
        "–" if pd.isna(row["seconds"]) else f"{duration(row['seconds'])}{machine_of(row)}",
        number("images_per_second", ",.0f"),
        *("–" if pd.isna(row[name]) else f"{row[name]:.2g}" for name in ("p_best", "p_resnet18")),
    ]


def machine_of(row: Mapping[Any, Any]) -> str:
    """The machine of a training in brackets, as far as it was recorded: processor or device, threads."""
    known = [row[name] for name in ("processor", "device") if isinstance(row[name], str) and row[name]][:1]
    if not pd.isna(row["threads"]):
        known.append(counted(int(row["threads"]), "thread"))
    return f" ({', '.join(known)})" if known else ""


if __name__ == "__main__":
    run(main, ARGS)
