"""Resuming: the checks of checkpoints, settings and images, and runs that are interrupted and resumed, with thin networks."""

from __future__ import annotations

import functools
import io
import json
from contextlib import redirect_stderr
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from tqdm import tqdm

import train
from lab.checkpoints.checkpoint import read_about, read_state, read_tensors, save_checkpoint
from lab.errors import UserError
from lab.hardware import Hardware
from lab.terminal import warn
from lab.training import log as log_module
from lab.training.log import Log
from lab.training.resume import check_record, read_settings, resumed_settings, same_run
from tests import hostile_images, made
from tests.made import BEST, FAST, LAST, Capture, Patch, Run, about, settings

# ---- checks


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    began, last = settings(lr=0.1, seed=0), tmp_path / "last.safetensors"
    resumed_settings(began, {"lr": 0.1, "data": "csv/elsewhere", "model": "all", "fresh": False}, last, finished=False)
    with pytest.raises(UserError) as error:
        resumed_settings(began, {"lr": 0.2, "seed": 3, "size": 64}, last, finished=False)
    for text in (str(last), "began with other settings (lr 0.1 → 0.2; seed 0 → 3)", "leave them out", "--fresh"):
        assert text in str(error.value)
    finished = r"finished already, with other settings \(epochs 3 → 9\); --fresh trains it anew"
    with pytest.raises(UserError, match=finished):
        resumed_settings(began, {"epochs": 9}, last, finished=True)


@pytest.mark.parametrize("change", [{"lr": "fast"}, {"mood": "good"}, {"lr": None}])
def test_settings_of_another_version_are_refused(change: dict[str, Any]) -> None:
    changed = about(settings=asdict(settings()) | change)
    with pytest.raises(UserError, match=r"last: its settings are not those of this version.*\((lr|mood)\).*--fresh"):
        read_settings(Path("last"), changed)
    assert read_settings(Path("last"), about(settings=asdict(settings()))) == settings()


def test_a_run_is_identified_by_lists_settings_and_first_record() -> None:
    """Patience may change, and a run that was resumed on another machine has more records."""
    one = about(settings=asdict(settings()), records=[{"device": "cpu"}])
    assert same_run(one, about(settings=asdict(settings(patience=7)), records=[{"device": "cpu"}, {"device": "cuda"}]))
    assert not same_run(one, about(settings=asdict(settings(lr=0.3)), records=[{"device": "cpu"}]))
    assert not same_run(one, about(settings=asdict(settings()), records=[{"device": "cuda"}]))
    assert not same_run(one, about(settings=asdict(settings()), records=[{"device": "cpu"}], lists="others"))


def test_other_images_are_refused_and_other_versions_printed(capsys: Capture) -> None:
    saved = about(records=[{"images": "one", "torch": "2.13"}, {"images": "one", "torch": "2.14"}])
    check_record(saved, {"images": "one", "torch": "2.14"}, Path("last"), Path("csv/lab3"))
    check_record(about(), {"images": "one"}, Path("last"), Path("csv/lab3"))  # a checkpoint without records
    assert capsys.readouterr().out == ""
    check_record(saved, {"images": "one", "torch": "2.15"}, Path("last"), Path("csv/lab3"))
    assert "resumes with changes that may alter the last digits: torch 2.14 → 2.15\n" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"last: images of csv/lab3 have changed .*--fresh"):
        check_record(saved, {"images": "two", "torch": "2.14"}, Path("last"), Path("csv/lab3"))


# ---- the same run, and resuming

VARIANTS = {
    "sgd": [],
    "adamw, sizes by thirds": ["--optimizer", "adamw", "--lr", "0.01", "--size", "48", "--progressive"],
    "accumulated, weighted": ["--accumulate", "2", "--class-weights", "balanced", "--clip", "0", "--warmup", "0"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def whole(request: Any, tmp_path_factory: pytest.TempPathFactory, trained: Path) -> tuple[Path, list[str]]:
    """An uninterrupted run, and its options."""
    folder, options = tmp_path_factory.mktemp("whole"), VARIANTS[request.param]
    with made.inside(folder, figures=False):
        made.command(train, "--data", trained / "csv" / "tiny", *FAST, *options)
    return folder, options


def test_the_same_seed_gives_the_same_run(whole: tuple[Path, list[str]], tmp_path: Path, run: Run) -> None:
    run(*whole[1])
    made.assert_same_run(whole[0], tmp_path)


@pytest.mark.parametrize(("at", "written"), [(1, True), (2, False), (2, True), (3, True)])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    whole: tuple[Path, list[str]], tmp_path: Path, run: Run, capsys: Capture, at: int, written: bool
) -> None:
    """Stopped after epoch 1, in epoch 2 before its last checkpoint is written, after epoch 2, and after the last one."""
    with made.interrupted(at, written):
        run(*whole[1])
    epoch = at if written else at - 1
    assert read_state(tmp_path / LAST).epoch == epoch
    assert "\ntime: about " in capsys.readouterr().out
    run(*whole[1])
    output = capsys.readouterr().out
    assert f"resnet18: resuming after epoch {epoch} of 3, best valid accuracy" in output
    assert epoch == 3 or " left, from a measured step" in output
    made.assert_same_run(whole[0], tmp_path)


def test_options_left_out_are_those_that_the_run_began_with(
    whole: tuple[Path, list[str]], trained: Path, tmp_path: Path, run: Run, capsys: Capture
) -> None:
    """``train.py --model … --data …`` is enough to resume, and to see that a run has finished."""
    with made.interrupted():
        run(*whole[1])
    short: list[str | Path] = ["--data", trained / "csv" / "tiny", "--device", "cpu", "--precision", "fp32"]
    made.command(train, *short)
    made.assert_same_run(whole[0], tmp_path)
    capsys.readouterr()
    before = made.outputs(tmp_path)
    made.command(train, *short)
    assert "resnet18: finished already, best valid accuracy" in capsys.readouterr().out
    assert made.outputs(tmp_path) == before
    # An earlier version ended the run without a temperature: the same command adds it.
    best = tmp_path / BEST
    complete = read_about(best)
    save_checkpoint(best, replace(complete, confidence={}, typical=[]), read_tensors(best), read_state(best))
    made.command(train, *short)
    after = read_about(best)
    assert after == complete and after.confidence and after.typical


OLD = {"valid_accuracy": "test_accuracy", "valid_loss": "test_loss"}  # columns as earlier versions named them


def test_a_run_with_the_old_names_of_columns_is_resumed_with_the_new_ones(
    tmp_path: Path, trained: Path, run: Run
) -> None:
    """Earlier versions wrote test_accuracy and test_loss into the histories of both checkpoints."""
    with made.interrupted(2):
        run()
    paths = [tmp_path / BEST, tmp_path / LAST]
    for path in paths:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata()
        values = json.loads(header["about"])
        values["history"] = [{OLD.get(name, name): value for name, value in row.items()} for row in values["history"]]
        header["about"] = json.dumps(values)
        safetensors.torch.save_file(read_tensors(path), path, header)
        assert b"test_accuracy" in path.read_bytes()
    run()
    made.assert_same_run(trained, tmp_path)
    assert not any(b"test_accuracy" in path.read_bytes() for path in paths)


def test_fp16_with_its_loss_scaler_is_resumed_with_the_same_weights(tmp_path: Path, work: Patch, run: Run) -> None:
    """As on a GPU without bf16. The scaler skips the first steps, because their scaled gradients overflow."""
    work.setattr(train, "choose_hardware", lambda *_: Hardware(torch.device("cpu"), "fp16"))
    work.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0**24))
    run("--weights", "a", "--report", "a")
    paths = [tmp_path / name / "tiny" / "resnet18" / "last.safetensors" for name in "ab"]
    assert read_state(paths[0]).scaler["scale"] != 2.0**24
    with made.interrupted():
        run("--weights", "b", "--report", "b")
    run("--weights", "b", "--report", "b")
    whole, resumed = map(read_tensors, paths)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and whole.keys() == resumed.keys()
    made.assert_finite(*paths)


def test_another_seed_gives_another_run(tmp_path: Path, trained: Path, run: Run) -> None:
    run("--seed", "1")
    weights = [read_tensors(folder / LAST)["train.conv1.weight"] for folder in (tmp_path, trained)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("interrupted", [False, True])
def test_fresh_starts_over(tmp_path: Path, trained: Path, run: Run, capsys: Capture, interrupted: bool) -> None:
    """Nothing of the earlier run is left, even if the new one is stopped between its first best and its first last checkpoint."""
    run("--epochs", "2", "--lr", "0.3", "--seed", "5")
    capsys.readouterr()
    if interrupted:
        with made.interrupted(written=False):
            run("--fresh")
    run(*([] if interrupted else ["--fresh"]))
    assert "epoch 1/3" in capsys.readouterr().out
    made.assert_same_run(trained, tmp_path)


def test_the_log_is_what_the_terminal_showed(tmp_path: Path, run: Run, capsys: Capture) -> None:
    """Of the run from its start, also over an interruption; a command that trains nothing does not change it."""
    log = tmp_path / "report" / "tiny" / "log_resnet18.txt"
    with made.interrupted(1):
        run()
    printed = [capsys.readouterr().out]
    run()
    printed.append(capsys.readouterr().out)
    text = log.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("$ python ")]
    assert lines == [line for part in printed for line in part.splitlines()]
    assert sum(line.startswith("resnet18 epoch") for line in lines) == 2 and "\r" not in text
    assert len(text.splitlines()) - len(lines) == 2  # the commands
    run()
    assert log.read_text(encoding="utf-8") == text
    run("--fresh")
    assert log.read_text(encoding="utf-8").count("$ python ") == 1


def test_the_log_is_written_before_the_run_has_finished(run: Run, work: Patch) -> None:
    """Otherwise a run killed in between would leave a log without its end, or a half-written one, for good."""
    written: list[str] = []

    def save(*arguments: Any) -> None:
        save_checkpoint(*arguments)
        written.append("best")

    work.setattr(log_module, "write_whole", lambda path, text: written.append(text.splitlines()[-1]))
    work.setattr(train, "save_checkpoint", save)
    run("--epochs", "1")
    assert written[-2].startswith("resnet18: best valid accuracy") and written[-1] == "best"


def test_a_log_has_warnings_but_no_progress_bars(tmp_path: Path) -> None:
    bar = io.StringIO()
    with redirect_stderr(bar), Log() as log, log.of_run():
        log.keep(tmp_path / "log.txt", False)
        for _ in tqdm(range(3), "training", mininterval=0):
            warn("odd")
    assert "training" in bar.getvalue()
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["warning: odd"] * 3


# ---- refusals

IMAGE = hostile_images.encode(Image.new("RGB", (48, 48), "purple"), "PNG")


def test_other_settings_are_refused_and_change_nothing(tmp_path: Path, run: Run) -> None:
    run()
    before = made.outputs(tmp_path)
    message = r"finished already, with other settings \(epochs 3 → 5; lr 0.1 → 0.2\); --fresh"
    with pytest.raises(UserError, match=message):
        run("--epochs", "5", "--lr", "0.2")
    assert made.outputs(tmp_path) == before


@pytest.mark.parametrize(("missing", "message"), [(LAST, "exists without last"), (BEST, "missing beside last")])
def test_a_checkpoint_alone_is_not_overwritten(tmp_path: Path, run: Run, missing: Path, message: str) -> None:
    """As when only one file was copied."""
    run("--epochs", "1")
    (tmp_path / missing).unlink()
    before = made.outputs(tmp_path)
    with pytest.raises(UserError, match=rf"best.safetensors.* {message}.safetensors.*--fresh"):
        run("--epochs", "1")
    assert made.outputs(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_an_error_before_the_first_step(
    tmp_path: Path, work: Patch, run: Run
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    made.after_steps(work, lambda *_: pytest.fail("a step was taken"))
    for option in ("--weights", "--report"):
        with pytest.raises(OSError, match="taken"):
            run(option, "taken")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("valid/0.png", IMAGE, "images of csv/tiny have changed since this run began; --fresh"),
        ("valid.csv", b"Path,label\n./valid/0.png,0\n./valid/1.png,1\n", "csv/tiny has changed since .*; --fresh"),
        ("classes.csv", b"label,name\n0,cat\n1,dog\n", r"trained on 2 classes \['normal', .*\['cat', 'dog'\]"),
    ],
)
def test_data_that_has_changed_since_a_run_began_is_refused(
    tmp_path: Path, work: Patch, file: str, content: bytes, message: str
) -> None:
    data = made.make_data(tmp_path / "csv" / "tiny")
    with made.interrupted():
        made.command(train, "--data", "tiny", *FAST)
    (data / file).write_bytes(content)
    before = made.outputs(tmp_path / "weights")
    with pytest.raises(UserError, match=message):
        made.command(train, "--data", "tiny", *FAST)
    assert made.outputs(tmp_path / "weights") == before
    made.command(train, "--data", "tiny", *FAST, "--fresh")


def test_the_last_checkpoint_of_another_depth_is_refused(tmp_path: Path, trained: Path, run: Run) -> None:
    (tmp_path / LAST).parent.mkdir(parents=True)
    (tmp_path / LAST).write_bytes((trained / "weights/tiny/resnet50/last.safetensors").read_bytes())
    with pytest.raises(UserError, match="expected weights of resnet18, found weights of resnet50"):
        run()
