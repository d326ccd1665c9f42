"""The search of settings: with a stand-in for train.py, whose accuracy is known, and once with train.py itself."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lab.data.lists import read_data_set
from lab.errors import UserError
from tests.made import PROJECT, Capture, Patch, command, make_data

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install -r requirements-extras.txt -c constraints.txt")
from studies import sweep

# Accuracy rises with the epochs, and with lr up to 0.1; 0.4 fails. It resumes after the last finished epoch.
STAND_IN = """
import argparse, pathlib, sys, time
parser = argparse.ArgumentParser()
for name in ("data", "model", "weights", "report", "lr", "kind", "seed", "pause"):
    parser.add_argument(f"--{name}", default="0")
args = parser.parse_args()
if args.lr == "0.4":
    sys.exit("error: the loss is no longer finite")
history = pathlib.Path(args.report) / pathlib.Path(args.data).name / f"history_{args.model}.csv"
history.parent.mkdir(parents=True, exist_ok=True)
lines = history.read_text().splitlines() if history.exists() else ["epoch,valid_accuracy"]
with open("starts.txt", "a") as file:
    file.write(f"{args.lr} {args.kind} {args.seed} {len(lines) - 1}\\n")
for epoch in range(len(lines), 7):
    time.sleep(float(args.pause))
    accuracy = 0.5 + min(float(args.lr), 0.1) * epoch / 2 + 0.01 * int(args.seed) + 0.02 * (args.kind == "b")
    lines.append(f"{epoch},{accuracy}")
    history.write_text("\\n".join(lines) + "\\n")
"""
RUN = ["--data", "csv/tiny", "--model", "cnn2"]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The tiny data set in the working directory, and the stand-in for train.py."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "csv" / "tiny")
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.setattr(sweep, "PROJECT", tmp_path)
    monkeypatch.setattr(sweep, "POLL", 0.01)
    return tmp_path


def trials(name: str = "cnn2") -> pd.DataFrame:
    return pd.read_csv(f"report/tiny/sweep_{name}.csv")


def test_a_grid_finds_the_best_over_seeds(stand_in: Path, capsys: Capture) -> None:
    options = [*RUN, "--sampler", "grid", "--no-pruning", "--best", "2"]
    command(sweep, *options, "--vary", "lr=0.01,0.05,0.1", "kind=a,b")
    table = trials()
    assert len(table) == 6 and set(table["state"]) == {"complete"} and (table["epochs"] == 6).all()
    found = {(row["lr"], row["kind"]): row["accuracy"] for row in table.to_dict("records")}
    assert found == pytest.approx({(lr, k): 0.5 + 3 * lr + 0.02 * (k == "b") for lr in (0.01, 0.05, 0.1) for k in "ab"})
    best = pd.read_csv("report/tiny/sweep_cnn2_best.csv")
    assert best[["lr", "kind"]].to_numpy().tolist() == [[0.1, "b"], [0.1, "a"]] and (best["seeds"] == 3).all()
    values = np.array([0.82, 0.83, 0.84])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert best.loc[0, ["mean", "low", "high"]].to_numpy() == pytest.approx([0.83, low, high], abs=1e-5)
    assert best.loc[0, "command"] == "python train.py --data csv/tiny --model cnn2 --lr 0.1 --kind b --seed 0"
    output = capsys.readouterr().out
    assert "python train.py --data csv/tiny --model cnn2 --lr 0.1 --kind b --seed 0" in output
    page = Path("report/tiny/sweep_cnn2.html").read_text()
    assert "parcoords" in page and "--kind b --seed 0" in page and Path("report/tiny/sweep_cnn2_settings.png").is_file()
    # The first seed is that of the trial, which is not trained again.
    assert Path("starts.txt").read_text().count("0.1 b 0 0\n") == 1


def test_trials_that_fall_behind_are_stopped(stand_in: Path, capsys: Capture) -> None:
    options = [*RUN, "--sampler", "grid", "--best", "1", "--repeats", "1", "--options", "--pause 0.05"]
    command(sweep, *options, "--vary", "lr=0.1,0.09,0.08,0.07,0.01,0.02")
    table = trials().set_index("lr")
    assert (table.loc[[0.1, 0.09, 0.08, 0.07], "state"] == "complete").all()
    assert (table.loc[[0.01, 0.02], "state"] == "pruned").all() and (table.loc[[0.01, 0.02], "epochs"] < 6).all()
    assert "below the median: stopped" in capsys.readouterr().out


def test_a_range_is_searched_and_goes_on(stand_in: Path) -> None:
    options = [*RUN, "--vary", "lr=0.001..0.1:log", "--best", "1", "--repeats", "1", "--no-pruning"]
    command(sweep, *options, "--trials", "3")
    first = trials()
    assert len(first) == 3 and first["lr"].between(0.001, 0.1).all() and first["lr"].nunique() == 3
    command(sweep, *options, "--trials", "5")
    assert len(trials()) == 5 and trials()["lr"].tolist()[:3] == first["lr"].tolist()
    with pytest.raises(UserError, match=r"the search cnn2 has other options or lists"):
        command(sweep, *options[:-5], "--vary", "lr=0.002..0.1:log")


def test_an_interrupted_trial_resumes(stand_in: Path, monkeypatch: Patch, capsys: Capture) -> None:
    options = [*RUN, "--sampler", "grid", "--vary", "lr=0.05,0.1", "--best", "1", "--repeats", "1"]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            command(sweep, *options, "--options", "--pause 0.05")
    command(sweep, *options, "--options", "--pause 0.05")
    table = trials()
    assert sorted(table["state"]) == ["complete", "complete", "fail"]
    starts = [line.split() for line in Path("starts.txt").read_text().splitlines()]
    assert len(starts) == 3 and [int(words[3]) for words in starts if words[0] == "0.05"][1] >= 1


def test_a_killed_worker_is_noticed_and_two_share_the_trials(stand_in: Path) -> None:
    """Two processes on one SQLite file run each trial of the grid once; one that is killed leaves its trial to the next."""
    code = "import sys; sys.path.insert(0, {!r}); from pathlib import Path; from studies import sweep; import tests.made as m; "
    code += "sweep.PROJECT = Path.cwd(); sweep.POLL = 0.01; m.command(sweep, *sys.argv[1:])"
    values = ",".join(f"0.0{digit}" for digit in range(1, 9))
    options = [*RUN, "--sampler", "grid", "--no-pruning", "--vary", f"lr={values}", "--best", "1", "--repeats", "1"]

    def start(pause: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", code.format(str(PROJECT)), *options, "--options", f"--pause {pause}"]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    first = start("0.1")
    limit = time.monotonic() + 120
    while not Path("starts.txt").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    workers = [start("0.1"), start("0.1")]
    assert [worker.communicate()[1] for worker in workers] == [b"", b""]
    table = trials()
    done = table[table["state"] == "complete"]
    assert sorted(done["lr"]) == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]


def test_a_trial_that_two_workers_got_is_run_by_the_first(stand_in: Path) -> None:
    """SQLite cannot lock a row; the second worker finds the trial locked, or finished, and leaves it."""
    args = sweep.arguments().parse_args([*RUN, "--sampler", "grid", "--vary", "lr=0.05", "--no-pruning"])
    sweep.check_paths(args)
    folder = stand_in / "weights" / "tiny" / "sweeps" / "cnn2"
    folder.mkdir(parents=True)
    study = sweep.open_study(args, read_data_set("csv/tiny", None), folder)
    trial = study.ask()
    with sweep.lock_of(folder, trial.number).acquire(timeout=0):
        sweep.run_trial(study, trial, args, folder, float("inf"))
        sweep.take_over(study, study.trials[0], folder)
    assert not Path("starts.txt").exists() and study.trials[0].state.name == "RUNNING"
    for _ in range(2):
        sweep.run_trial(study, trial, args, folder, float("inf"))
    assert Path("starts.txt").read_text().count("\n") == 1 and study.trials[0].state.name == "COMPLETE"
    sweep.take_over(study, study.trials[0], folder)
    assert len(study.trials) == 1


def test_the_budget_ends_a_trial_which_then_goes_on(stand_in: Path, capsys: Capture) -> None:
    options = [
        *RUN,
        "--sampler",
        "grid",
        "--vary",
        "lr=0.05",
        "--best",
        "1",
        "--repeats",
        "1",
        "--options",
        "--pause 0.2",
    ]
    command(sweep, *options, "--minutes", "0.012")
    assert "minutes are over; the same command resumes" in capsys.readouterr().out
    command(sweep, *options)
    assert trials()["state"].tolist() == ["fail", "complete"]


def test_a_failing_training_is_one_sentence(stand_in: Path) -> None:
    with pytest.raises(
        UserError, match=r"trial 0 \(lr 0\.4\) failed: error: the loss is no longer finite; see .*log\.txt"
    ):
        command(sweep, *RUN, "--sampler", "grid", "--vary", "lr=0.4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler", "grid", "--vary", "lr=0.1..0.2"], "grid needs values"),
        (["--vary", "lr=0.1,0.2", "--options", "--lr 0.1"], "--lr: is set by the search itself"),
        (["--vary", "seed=1,2"], "is set by the search itself"),
        (["--vary", "lr=0.1,0.2", "--name", "a/b"], "must be of letters"),
        (["--vary", "lr=0.1,0.2", "--storage", "nonsense://x"], "the database cannot be opened"),
    ],
)
def test_wrong_options_are_one_sentence(stand_in: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command(sweep, *RUN, *words)


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=1..0", "lr=0..1:log", "lr=a..b", "a=1,1", "a=1,2:log", "A=1"])
def test_wrong_values_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        sweep.varied(text)


def test_values_of_an_option() -> None:
    assert sweep.varied("lr=1e-4..1e-1:log") == sweep.Range("lr", (), 1e-4, 0.1, True, False)
    assert sweep.varied("batch_size=16..64") == sweep.Range("batch-size", (), 16, 64, False, True)
    assert sweep.varied("augmentation=d4|geometry,colour").choices == ("d4", "geometry,colour")
    assert sweep.varied("--optimizer=adam,sgd").choices == ("adam", "sgd")


def test_a_grid_over_networks_with_imagenet_weights(stand_in: Path) -> None:
    """By studies.pretrained, whose files have the mode in their names."""
    (stand_in / "studies").mkdir()
    (stand_in / "studies" / "__init__.py").touch()
    changed = STAND_IN.replace('"model"', '"base", "mode", "optimizer"').replace(
        "{args.model}", "{args.base}_{args.mode}"
    )
    (stand_in / "studies" / "pretrained.py").write_text(changed)
    options = [
        "--data",
        "csv/tiny",
        "--model",
        "efficientnet_lite0",
        "--sampler",
        "grid",
        "--no-pruning",
        "--best",
        "1",
    ]
    options += ["--repeats", "1", "--options", "--mode frozen --lr 0.1"]
    command(sweep, *options, "--vary", "optimizer=adam,sgd", "kind=a,b")
    table = trials("efficientnet_lite0")
    assert table["state"].tolist() == ["complete"] * 4 and table["accuracy"].max() == pytest.approx(0.82)
    best = pd.read_csv("report/tiny/sweep_efficientnet_lite0_best.csv").loc[0, "command"]
    start = "python -m studies.pretrained --data csv/tiny --base efficientnet_lite0 --mode frozen --lr 0.1 --optimizer"
    assert str(best).startswith(start)
    with pytest.raises(UserError, match=r"--track is for models of train\.py"):
        command(sweep, *options, "--vary", "kind=a,b", "--track", "mlflow")


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_runs_are_nested_in_that_of_the_search(stand_in: Path, monkeypatch: Patch) -> None:
    """The stand-in logs as train.py does. A second start continues the search's run."""
    pytest.importorskip("mlflow", reason="needs MLflow: requirements-extras.txt")
    from lab.tracking import mlflow_client

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "RESNET_PARENT_RUN"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    (stand_in / "train.py").write_text(STAND_IN.replace('"pause"', '"pause", "track"') + LOGS)
    options = [*RUN, "--sampler", "grid", "--no-pruning", "--best", "1", "--repeats", "1", "--track", "mlflow"]
    for _ in range(2):
        command(sweep, *options, "--vary", "lr=0.05,0.1")
    client = mlflow_client(stand_in / "report")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_name == "sweep cnn2" and parent.info.status == "FINISHED"
    assert parent.data.metrics["best_valid_accuracy"] == pytest.approx(0.8)
    assert parent.data.tags["best command"].startswith("python train.py --data csv/tiny --model cnn2 --lr 0.1")
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id} and len(children) == 2


# Logs one run by the code of train.py.
LOGS = f"""
if len(lines) == 7 and not (pathlib.Path(args.weights) / "mlflow_run").exists():
    sys.path.insert(0, {str(PROJECT)!r})
    from types import SimpleNamespace
    from lab import tracking
    pathlib.Path(args.weights).mkdir(parents=True, exist_ok=True)
    about = SimpleNamespace(data="tiny", model=args.model)
    tool = SimpleNamespace(best=pathlib.Path(args.weights) / "best", report=pathlib.Path(args.report), about=about)
    tool.active_run = lambda *key: tracking.MLflow.active_run(tool, *key)
    tracking.MLflow.find_run(tool, tracking.mlflow_client(tool.report))
"""


def test_train_itself(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "csv" / "tiny")
    options = ["--options", "--size 32 --epochs 1 --batch-size 8 --device cpu --precision fp32 --threads 1"]
    command(
        sweep, *RUN, "--sampler", "grid", "--vary", "optimizer=adam,rmsprop", "--best", "1", "--repeats", "1", *options
    )
    table = trials()
    assert table["state"].tolist() == ["complete", "complete"] and table["accuracy"].between(0, 1).all()
    assert len(list(Path("weights/tiny/sweeps/cnn2").glob("*/weights/tiny/cnn2/best.safetensors"))) == 2
