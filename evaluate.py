"""Evaluate the trained models on the labelled list valid.csv.

    python evaluate.py                                  # every ResNet trained on csv/lab3
    python evaluate.py --data csv/sample --model resnet50

Writes into report/<data>/: accuracy_comparison.png (accuracy per epoch, training and testing), a confusion matrix for each
model, roc.png, risk_coverage.png, metrics.csv, and each image's prediction.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.options import GivenParser, add_machine, add_places, add_quiet, add_report, add_trained_model, parse


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = GivenParser(description="Evaluate the trained models on valid.csv: metrics and figures.")
    add_places(parser)
    add_trained_model(parser)
    add_report(parser)
    help_scores = "also draw precision, recall and F1 per epoch, from the histories: scores.png"
    parser.add_argument("--scores", action="store_true", help=help_scores)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before torch is imported, and choose the data set if none is given."""
    from lab.checkpoints.headers import check_chosen, chosen_data
    from lab.data.lists import data_name, find_folder

    args.data = chosen_data(args.data, "data" in args.given, args.weights)
    folder = find_folder(args.data, args.root, ["valid"])
    check_chosen(args.weights / data_name(folder), args.model)


ARGS = parse(arguments, __name__, check_paths)

import pandas as pd

from lab.checkpoints.headers import chosen_models
from lab.checkpoints.origin import weights_digests, write_origin
from lab.data.lists import read_data_set, read_list
from lab.errors import run
from lab.evaluation.confidence import threshold
from lab.evaluation.metrics import confidence_metrics, metrics_table, write_metrics
from lab.evaluation.prediction import NOT_FOR_DIAGNOSIS, predict_list
from lab.evaluation.valid_table import write_predictions
from lab.figures.confusion import draw_confusion
from lab.figures.risk import risk_figure
from lab.figures.roc import roc_figure
from lab.figures.runs import draw_scores, redraw_accuracy
from lab.figures.style import save
from lab.hardware import choose_hardware
from models.catalog import find


def main(args: argparse.Namespace) -> None:
    """Predict the valid list with each model, then compute metrics and draw figures."""
    data = read_data_set(args.data, args.root)
    valid = read_list(data, "valid", labelled=True)
    models = chosen_models(args.weights / data.name, args.model)
    hardware = choose_hardware(args.device, args.precision)
    report = args.report / data.name

    results, predicted = {}, {}
    for model in models:
        path = args.weights / data.name / model / "best.safetensors"
        digests = weights_digests(path)  # before they are read, because a training may replace them
        found = predict_list(path, model, data, "valid", valid, args.d4, hardware)
        predicted[model], probabilities, about = found, found.probabilities, found.about
        results[model] = (valid.labels, probabilities)
        table = report / f"valid_{model}.csv"
        write_predictions(table, valid, probabilities)
        write_origin(table, digests, found.d4)
        title, file = f"{find(model).title} on {data.name}", report / f"confusion_{model}.png"
        print(f"{model}: {draw_confusion(valid.labels, probabilities, about.classes, title, file)} of valid.csv")

    only = "" if args.model == "all" else f"_{args.model}"  # a single model does not overwrite the files of all
    trust = [confidence_metrics(valid.labels, found).assign(model=model) for model, found in predicted.items()]
    table = pd.concat([metrics_table(results, about.classes), *trust])
    write_metrics(report / f"metrics{only}.csv", table)
    save(roc_figure(results, about.classes, f"ROC on {data.name}, valid.csv"), report / f"roc{only}.png")
    limits = {model: threshold(found.about, found.d4) for model, found in predicted.items()}
    title = f"Risk and coverage on {data.name}, valid.csv"
    save(risk_figure(results, limits, title), report / f"risk_coverage{only}.png")
    curves = redraw_accuracy(report, args.model)
    if args.scores:
        curves += f", {draw_scores(report, args.model)}"
    names = f"metrics{only}.csv, roc{only}.png, risk_coverage{only}.png, {curves}, confusion_*.png, valid_*.csv"
    print(f"written to {report}: {names}\n{NOT_FOR_DIAGNOSIS}")


if __name__ == "__main__":
    run(main, ARGS)
