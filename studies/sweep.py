"""Search the settings of train.py or studies.pretrained on a data set.

Each trial is an ordinary training; trials that fall behind are stopped early.

    python -m studies.sweep --data all4 --model resnet18 --vary lr=0.005..0.2:log "augmentation=d4|geometry|geometry,colour" \\
        --trials 20 --options "--size 64 --epochs 8"
    python -m studies.sweep --data all4 --model cnn4 --sampler grid --vary optimizer=adam,sgd,rmsprop batch-size=16,32,64
    python -m studies.sweep --data all4 --model efficientnet_lite0 --options "--mode frozen --size 128" --sampler grid \\
        --vary optimizer=adam,sgd,rmsprop batch-size=16,32,64            # a network with ImageNet weights

Settings are chosen on valid.csv; no test list is read. An interrupted search resumes with the same command. Several commands at
the same time share the trials.

The best few are repeated with other seeds, and the winner is the one with the best mean. Writes the trials into
weights/<data>/sweeps/<name>/, and into report/<data>/: sweep_<name>.csv, sweep_<name>_best.csv, sweep_<name>.html and a figure.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from lab.errors import UserError
from lab.options import add_places, add_quiet, add_report, parse, positive
from models import catalog
from studies import bases

SAMPLERS = ("tpe", "random", "grid")


class Range(NamedTuple):
    """The values of an option that is varied: ``choices``, or numbers from ``low`` to ``high``."""

    option: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Search the settings of train.py or studies.pretrained on a data set.")
    add_places(parser)
    add_report(parser)
    names, help_model = [*catalog.names(), *bases.NAMES], "a model of train.py, or a network with ImageNet weights"
    parser.add_argument("--model", required=True, choices=names, metavar="MODEL", help=help_model)
    help_vary = (
        "options of train.py: NAME=A,B,C; NAME=A|B if values have commas; or NAME=LOW..HIGH, even in ratio with :log"
    )
    parser.add_argument("--vary", nargs="+", required=True, type=varied, metavar="NAME=VALUES", help=help_vary)
    parser.add_argument(
        "--options", default="", help='the other options of train.py, in quotes: "--size 64 --epochs 8"'
    )
    parser.add_argument("--name", help="of the search; the same name resumes it (default: the model's)")
    help_sampler = "tpe: learns from earlier trials; random; grid: all combinations (default: tpe)"
    parser.add_argument("--sampler", default="tpe", choices=SAMPLERS, help=help_sampler)
    parser.add_argument("--trials", type=positive, default=20, help="trainings, stopped ones included (default: 20)")
    parser.add_argument(
        "--minutes", type=float, help="begin no trial, and stop a running one, after this time (default: no limit)"
    )
    parser.add_argument("--no-pruning", action="store_true", help="let every trial train to its end")
    parser.add_argument(
        "--best", type=positive, default=3, help="settings that are repeated with other seeds (default: 3)"
    )
    parser.add_argument("--repeats", type=positive, default=3, help="trainings of each of the best (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the search, and first of the trainings (default: 0)")
    parser.add_argument(
        "--storage", help="address of another database that Optuna takes, such as postgresql://… (default: SQLite)"
    )
    help_track = "log the trainings there; in MLflow their runs are nested in one of the search (default: none)"
    parser.add_argument("--track", nargs="+", default=[], choices=("tensorboard", "mlflow"), help=help_track)
    add_quiet(parser)
    return parser


def varied(text: str) -> Range:
    """Argument type: ``lr=1e-4..1e-1:log``, ``batch-size=16,32``, ``augmentation=d4|geometry,colour``."""
    option, _, values = text.partition("=")
    option = option.removeprefix("--").replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", option) or not values:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=VALUES")
    body, log = values.removesuffix(":log"), values.endswith(":log")
    if ".." not in body:
        choices = tuple(body.split("|" if "|" in body else ","))
        if log or len(set(choices)) != len(choices) or not all(choices):
            raise argparse.ArgumentTypeError(f"{text}: values must differ, and :log is for LOW..HIGH")
        return Range(option, choices)
    try:
        low, high = (float(one) for one in body.split("..", 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: LOW and HIGH must be numbers") from None
    whole = all(re.fullmatch(r"\d+", one) for one in body.split("..", 1))
    if not low < high or (log and low <= 0):
        raise argparse.ArgumentTypeError(f"{text}: LOW must be below HIGH{', and above 0 with :log' if log else ''}")
    return Range(option, (), low, high, log, whole)


def check_paths(args: argparse.Namespace) -> None:
    """Report wrong options before anything slow is imported."""
    from importlib.util import find_spec

    from lab.data.lists import find_folder

    if find_spec("optuna") is None:
        raise UserError("studies.sweep needs `pip install -r requirements-extras.txt -c constraints.txt`.")
    find_folder(args.data, args.root, ("train", "valid"))
    args.name = args.name or args.model
    if not re.fullmatch(r"[\w.-]+", args.name):
        raise UserError(f"--name {args.name} must be of letters, digits, '.', '_' and '-'.")
    if args.sampler == "grid" and any(not one.choices for one in args.vary):
        raise UserError("--sampler grid needs values such as lr=0.01,0.1 and not a range.")
    given = {word.split("=")[0] for word in shlex.split(args.options) if word.startswith("--")}
    if args.track and args.model in bases.NAMES:
        raise UserError("--track is for models of train.py; studies.pretrained logs nowhere.")
    own = {
        "--data",
        "--root",
        "--model",
        "--base",
        "--track",
        "--weights",
        "--report",
        "--store",
        "--seed",
        "--fresh",
        "--like",
    }
    twice = given & (own | {f"--{one.option}" for one in args.vary})
    if twice or {one.option for one in args.vary} & {name[2:] for name in own}:
        named = ", ".join(sorted(twice)) or "an option of --vary"
        raise UserError(f"{named}: is set by the search itself; leave it out of --options and --vary.")


ARGS = parse(arguments, __name__, check_paths)

import hashlib
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from scipy.stats import t as student

from lab.data.lists import DataSet, list_digest, read_data_set
from lab.errors import run
from lab.figures.style import SMALL, TICK, new_figure
from lab.files import PROJECT, check_writable, make_folder
from lab.text import counted, duration, percent, shown
from lab.tracking import mlflow_client, mlflow_experiment
from studies.pages import Output, Section, page

POLL = 0.5  # seconds between looks at a training's history
STARTUP, WARMUP = 4, 2  # trials before any is stopped, and epochs before one is
PATIENCE = 60.0  # seconds that a stopped training has to save
STATES = {"complete": "finished", "pruned": "stopped early"}
Params = dict[str, Any]


class Stopped(Exception):
    """The budget is spent, or another trial took the last place."""


def main(args: argparse.Namespace) -> None:
    """Run trials until there are enough, repeat the best, and write tables and figures."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = read_data_set(args.data, args.root)
    folder = args.weights / data.name / "sweeps" / args.name
    make_folder(folder)
    check_writable(args.report / data.name)
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    study = open_study(args, data, folder)
    if "mlflow" in args.track:
        open_parent(study, args, data)
    try:
        while (trial := next_trial(study, args)) is not None and time.monotonic() < deadline:
            run_trial(study, trial, args, folder, deadline)
        best = repeat_best(study, args, folder, deadline)
    except Stopped:
        best = pd.DataFrame()
        print(f"{args.minutes:g} minutes are over; the same command resumes")
    write_results(study, best, args, data)
    if "mlflow" in args.track:
        close_parent(study, best, args)
    if "tensorboard" in args.track:
        print(f"all trials: tensorboard --logdir {folder}")


# ---- the study -----------------------------------------------------------------------------------------------------------------


def open_study(args: argparse.Namespace, data: DataSet, folder: Path) -> optuna.Study:
    """Make or open the search. Raises :class:`UserError` if the same name has other settings."""
    storage = args.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
    pruner = optuna.pruners.MedianPruner(STARTUP, WARMUP) if not args.no_pruning else optuna.pruners.NopPruner()
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=args.name,
            direction="maximize",
            load_if_exists=True,
            pruner=pruner,
        )
    except Exception as error:  # of SQLAlchemy and of the database's driver
        raise UserError(f"{args.storage or folder}: the database cannot be opened ({shown(str(error))}).") from None
    done = len(study.trials)
    # Workers that share the trials begin with different numbers of them, and so draw different settings.
    study.sampler = optuna.samplers.RandomSampler(args.seed + done)
    if args.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=args.seed + done, n_startup_trials=8)
    settings = {"model": args.model, "lists": list_digest(data), "options": args.options}
    settings |= {"vary": [list(one) for one in args.vary]}
    settings = json.loads(json.dumps(settings))
    if study.user_attrs.get("settings", settings) != settings:
        raise UserError(
            f"{folder}: the search {args.name} has other options or lists; repeat them, or choose another --name."
        )
    if "settings" not in study.user_attrs:
        study.set_user_attr("settings", settings)
        if args.sampler == "grid":
            names = [one.option for one in args.vary]
            for values in itertools.product(*(one.choices for one in args.vary)):
                study.enqueue_trial(dict(zip(names, values, strict=True)))
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        if trial.user_attrs.get("machine") == platform.node():
            take_over(study, trial, folder)
    if done:
        print(f"{args.name}: {counted(done, 'trial')} of earlier")
    return study


def lock_of(folder: Path, number: int) -> FileLock:
    """The lock that a worker holds while it runs a trial; the system releases it if the worker is killed."""
    return FileLock(folder / f".trial_{number}.lock")


def take_over(study: optuna.Study, trial: optuna.trial.FrozenTrial, folder: Path) -> None:
    """Put a trial that no worker on this machine runs in line again."""
    with suppress(Timeout), lock_of(folder, trial.number).acquire(timeout=0):
        if not study.trials[trial.number].state.is_finished():  # another worker may have done the same
            again(study, trial.number, trial.params)
            print(f"trial {trial.number} was interrupted; its training resumes")


def again(study: optuna.Study, number: int, params: Params) -> None:
    """Give an interrupted trial up, and put one with the same settings in line, whose training resumes."""
    study.tell(number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(params)


def next_trial(study: optuna.Study, args: argparse.Namespace) -> optuna.Trial | None:
    """The next trial, or None if there are enough."""
    states = optuna.trial.TrialState
    waiting = study.get_trials(deepcopy=False, states=[states.WAITING])
    taken = study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED, states.RUNNING])
    if not waiting and (args.sampler == "grid" or len(taken) >= args.trials):
        return None
    return study.ask()


def suggest(trial: optuna.Trial, ranges: list[Range]) -> Params:
    """The values of a trial."""
    params: Params = {}
    for one in ranges:
        if one.choices:
            params[one.option] = trial.suggest_categorical(one.option, one.choices)
        elif one.whole:
            params[one.option] = trial.suggest_int(one.option, int(one.low), int(one.high), log=one.log)
        else:
            params[one.option] = trial.suggest_float(one.option, one.low, one.high, log=one.log)
    return params


# ---- trainings -----------------------------------------------------------------------------------------------------------------


def run_trial(
    study: optuna.Study, trial: optuna.Trial, args: argparse.Namespace, folder: Path, deadline: float
) -> None:
    """Train with a trial's settings, unless it falls behind the median of the others at the same epoch."""
    try:
        held = lock_of(folder, trial.number).acquire(timeout=0)
    except Timeout:  # SQLite can give one waiting trial to two workers: the other one runs it
        return
    with held:
        if study.trials[trial.number].state.is_finished():
            return
        trial.set_user_attr("machine", platform.node())
        run_locked(study, trial, args, folder, deadline)
    (folder / f".trial_{trial.number}.lock").unlink(missing_ok=True)


def run_locked(
    study: optuna.Study, trial: optuna.Trial, args: argparse.Namespace, folder: Path, deadline: float
) -> None:
    """:func:`run_trial` while the trial is locked."""
    params, state = suggest(trial, args.vary), optuna.trial.TrialState
    text = ", ".join(f"{name} {shown_value(value)}" for name, value in params.items())
    print(f"trial {trial.number}: {text}", flush=True)
    began, last = time.monotonic(), 0.0
    try:
        for epoch, last in train(params, args.seed, args, folder, deadline):
            trial.report(last, epoch)
            if trial.should_prune():
                study.tell(trial, state=state.PRUNED)
                print(
                    f"trial {trial.number}: {percent(last)} after epoch {epoch}, below the median: stopped", flush=True
                )
                return
    except UserError as error:
        study.tell(trial, state=state.FAIL)
        raise UserError(f"trial {trial.number} ({text}) failed: {error}") from None
    except (Stopped, KeyboardInterrupt):
        again(study, trial.number, params)
        raise
    accuracy = max(accuracies(history_of(params, args.seed, args, folder)))
    study.tell(trial, accuracy)
    print(f"trial {trial.number}: {percent(accuracy)} on valid, {duration(time.monotonic() - began)}", flush=True)


def train(
    params: Params, seed: int, args: argparse.Namespace, folder: Path, deadline: float
) -> Iterator[tuple[int, float]]:
    """Run train.py, and yield each epoch with its accuracy on valid when it is finished. A training that is there already is
    resumed, or read. It is stopped if the caller stops, or at the deadline."""
    place = place_of(params, seed, folder)
    make_folder(place)
    words = shlex.split(command_line(params, seed, args))[1:]
    command = [sys.executable, *(str(PROJECT / word) if word == "train.py" else word for word in words)]
    command += ["--weights", str(place / "weights"), "--report", str(place / "report")]
    command += ["--store", str(args.store)] if args.store else []
    command += ["--track", *args.track] if args.track else []
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    history, seen = history_of(params, seed, args, folder), 0
    with (place / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            while True:
                ended = process.poll() is not None
                for epoch, accuracy in list(enumerate(accuracies(history), 1))[seen:]:
                    seen = epoch
                    yield epoch, accuracy
                if ended:
                    break
                if time.monotonic() > deadline:
                    raise Stopped
                time.sleep(POLL)
        finally:
            stop(process)
    if process.returncode:
        lines = [line for line in (place / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
        raise UserError(f"{shown(lines[-1]) if lines else 'the training ended'}; see {place / 'log.txt'}.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Let a training save and end, if it runs."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command_line(params: Params, seed: int, args: argparse.Namespace) -> str:
    """The command that trains with these settings."""
    words = ["python", *(["-m", "studies.pretrained"] if args.model in bases.NAMES else ["train.py"])]
    words += ["--data", str(args.data), *(["--root", str(args.root)] if args.root else [])]
    words += ["--base" if args.model in bases.NAMES else "--model", args.model, *shlex.split(args.options)]
    for name, value in params.items():
        words += [f"--{name}", shown_value(value)]
    return shlex.join([*words, "--seed", str(seed)])


def shown_value(value: Any) -> str:
    """A value as train.py is given it, four digits of a number."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def place_of(params: Params, seed: int, folder: Path) -> Path:
    """The folder of a training: the same settings have the same, so that an interrupted one is resumed."""
    text = json.dumps([sorted((name, shown_value(value)) for name, value in params.items()), seed])
    return folder / hashlib.sha256(text.encode()).hexdigest()[:12]


def history_of(params: Params, seed: int, args: argparse.Namespace, folder: Path) -> Path:
    """The history of a training."""
    data, words = folder.parent.parent.name, ["--mode", "tuned", *shlex.split(args.options)]
    chosen = [word for before, word in pairwise(words) if before == "--mode"]
    system = f"{args.model}_{params.get('mode', chosen[-1])}" if args.model in bases.NAMES else args.model
    return place_of(params, seed, folder) / "report" / data / f"history_{system}.csv"


def accuracies(history: Path) -> list[float]:
    """The accuracy on valid of each finished epoch."""
    try:
        return [float(value) for value in pd.read_csv(history)["valid_accuracy"]]
    except (OSError, ValueError, KeyError):  # not written yet
        return []


def repeat_best(study: optuna.Study, args: argparse.Namespace, folder: Path, deadline: float) -> pd.DataFrame:
    """Train the best few with other seeds, so that luck does not win. Returns a row for each, the best mean first."""
    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    ranked = sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))
    unique = list({place_of(trial.params, args.seed, folder): trial for trial in reversed(ranked)}.values())[::-1]
    rows = []
    for trial in sorted(unique, key=lambda trial: (-(trial.value or 0.0), trial.number))[: args.best]:
        found = [float(trial.value or 0.0)]
        for seed in range(args.seed + 1, args.seed + args.repeats):
            for _ in train(trial.params, seed, args, folder, deadline):
                pass
            found.append(max(accuracies(history_of(trial.params, seed, args, folder))))
        mean, half = float(np.mean(found)), half_width(found)
        rows.append(
            trial.params
            | {"trial": trial.number, "seeds": len(found), "mean": mean, "low": mean - half, "high": mean + half}
            | {"command": command_line(trial.params, args.seed, args)}
        )
        print(f"trial {trial.number}: {percent(mean)} on valid, mean of {counted(len(found), 'seed')}", flush=True)
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable") if rows else pd.DataFrame()


def half_width(values: list[float]) -> float:
    """Half of the 95 % interval of a mean (Student's t); NaN for one value."""
    if len(values) < 2:
        return float("nan")
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


# ---- MLflow --------------------------------------------------------------------------------------------------------------------


def open_parent(study: optuna.Study, args: argparse.Namespace, data: DataSet) -> None:
    """Create the run of the search in MLflow, or continue it, and let the trainings log their runs within it."""
    if find_spec("mlflow") is None:
        raise UserError("--track mlflow needs `pip install -r requirements-extras.txt -c constraints.txt`.")
    report = args.report.resolve()
    client = mlflow_client(report)
    experiment = mlflow_experiment(client, report, data.name)
    if "mlflow_run" not in study.user_attrs:
        run = client.create_run(experiment, run_name=f"sweep {args.name}").info.run_id
        settings = {"sampler": args.sampler, "options": args.options} | {one.option: str(one) for one in args.vary}
        for name, value in settings.items():
            client.log_param(run, name, value)
        study.set_user_attr("mlflow_run", run)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{report}/mlflow.db")
    os.environ |= {"MLFLOW_EXPERIMENT_ID": experiment, "RESNET_PARENT_RUN": study.user_attrs["mlflow_run"]}


def close_parent(study: optuna.Study, best: pd.DataFrame, args: argparse.Namespace) -> None:
    """End the search's run, with the best accuracy and the winner's command."""
    client, run = mlflow_client(args.report.resolve()), study.user_attrs["mlflow_run"]
    if not best.empty:
        client.log_metric(run, "best_valid_accuracy", float(best.iloc[0]["mean"]))
        client.set_tag(run, "best command", best.iloc[0]["command"])
    client.set_terminated(run, "KILLED" if best.empty else "FINISHED")


# ---- results -------------------------------------------------------------------------------------------------------------------


def write_results(study: optuna.Study, best: pd.DataFrame, args: argparse.Namespace, data: DataSet) -> None:
    """Write the tables, figures and the page, and print the winner's command."""
    out = Output(args.report / data.name, f"sweep_{args.name}", pictures=True)
    out.table("", trials_table(study))
    if not best.empty:
        out.table("best", best)
    states = optuna.trial.TrialState
    done = study.get_trials(deepcopy=False, states=[states.COMPLETE])
    texts = [
        f"{counted(len(done), 'finished trial')} and {counted(len(study.trials) - len(done), 'other')}, stopped ones among "
        f"them; {args.model} on {data.name}. Accuracies are on valid.csv, on which the settings were chosen: they are slightly "
        "too high."
    ]
    sections = [Section("Search", texts)]
    if not best.empty:
        sections.append(Section("The best, over seeds", best_texts(best)))
    if len(done) >= 2 and any(len({trial.params[name] for trial in done}) > 1 for name in done[0].params):
        drawn = optuna.visualization
        plots = [drawn.plot_optimization_history(study), drawn.plot_parallel_coordinate(study), drawn.plot_slice(study)]
        plots.insert(2, drawn.plot_param_importances(study))
        sections.append(Section("Trials", plots=plots))
        out.picture(
            "settings", settings_figure(trials_table(study), list(done[0].params), f"{args.model} on {data.name}"), ""
        )
    out.write("html", page(f"Settings of {args.model} on {data.name}", "", sections, {}))
    for text in best_texts(best)[:2] if not best.empty else []:
        print(text)
    print(f"written to {out.folder}: {', '.join(out.files)}")


def best_texts(best: pd.DataFrame) -> list[str]:
    """The winner, its command, and the others."""
    texts = []
    for row in best.to_dict("records"):
        interval = "" if np.isnan(row["low"]) else f" ({100 * row['low']:.2f}–{100 * row['high']:.2f})"
        texts += [
            f"Trial {row['trial']}: {percent(row['mean'])}{interval} on valid, {counted(row['seeds'], 'seed')}.",
            row["command"],
        ]
    return texts


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """A row for each trial: number, state, epochs, accuracy on valid, minutes, and its settings."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        values = list(trial.intermediate_values.values())
        minutes = trial.duration.total_seconds() / 60 if trial.duration else np.nan
        row = {"trial": trial.number, "state": trial.state.name.lower(), "epochs": len(values)}
        row |= {"accuracy": trial.value if trial.value is not None else max(values, default=np.nan), "minutes": minutes}
        rows.append(row | trial.params)
    return pd.DataFrame(rows)


def settings_figure(table: pd.DataFrame, names: list[str], title: str) -> Figure:
    """Draw the accuracy of each trial over each setting; trials that were stopped are hollow."""
    figure = new_figure(3.2 * len(names) + 0.6, 3.6, title)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for state, face in (("complete", "#0072B2"), ("pruned", "none")):
            own = table[table["state"] == state]
            values = own[name] if pd.api.types.is_numeric_dtype(table[name]) else own[name].astype(str)
            axes.scatter(values, 100 * own["accuracy"], facecolor=face, edgecolor="#0072B2", label=STATES[state])
        numbers = table[name].dropna()
        if pd.api.types.is_numeric_dtype(numbers) and numbers.min() > 0 and numbers.max() / numbers.min() > 20:
            axes.set_xscale("log")
        axes.set_xlabel(name, fontsize=TICK)
        axes.tick_params(labelsize=SMALL)
        axes.grid(alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Best accuracy on valid, %", fontsize=TICK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


if __name__ == "__main__":
    run(main, ARGS)
