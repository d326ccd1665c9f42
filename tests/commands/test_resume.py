"""What a run goes on from, and what is refused; runs that stop and go on, on made cells with thin networks."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import train
from lab.checkpoints.checkpoint import read_state, read_tensors
from lab.errors import UserError
from lab.hardware import Hardware
from lab.training.ema import EMA
from lab.training.resume import check_record, read_settings, resumed_settings, same_run
from tests.made import FAST, about, assert_same_run, command, inside, interrupt, make_data, outputs, settings

# ---- what the files say


def test_the_same_settings_pass_and_others_are_named(tmp_path: Path) -> None:
    last = tmp_path / "last.safetensors"
    began = settings(lr=0.1, seed=0)
    resumed_settings(began, {"lr": 0.1, "data": "csv/elsewhere", "model": "all", "fresh": False}, last, finished=False)
    with pytest.raises(UserError) as error:
        resumed_settings(began, {"lr": 0.2, "seed": 3, "size": 64}, last, finished=False)
    for words in (
        str(last),
        "began with other settings",
        "lr 0.1 → 0.2",
        "seed 0 → 3",
        "leave them out to resume",
        "--fresh",
    ):
        assert words in str(error.value)
    assert "size" not in str(error.value)
    with pytest.raises(
        UserError, match=r"finished already, with other settings \(epochs 3 → 9\); --fresh trains it anew"
    ):
        resumed_settings(began, {"epochs": 9}, last, finished=True)


@pytest.mark.parametrize("change", [{"lr": "fast"}, {"mood": "good"}, {"lr": None}])
def test_settings_of_another_version_are_refused(change: dict[str, Any]) -> None:
    said = about(settings=asdict(settings()) | change)
    with pytest.raises(UserError, match=r"last: its settings are not those of this version.*\((lr|mood)\).*--fresh"):
        read_settings(Path("last"), said)
    assert read_settings(Path("last"), about(settings=asdict(settings()))) == settings()


def test_a_run_is_the_same_by_its_lists_settings_and_beginning() -> None:
    """Patience may change on the way, and a run that went on elsewhere has more records."""
    one = about(settings=asdict(settings()), records=[{"device": "cpu"}])
    assert same_run(one, about(settings=asdict(settings(patience=7)), records=[{"device": "cpu"}, {"device": "cuda"}]))
    assert not same_run(one, about(settings=asdict(settings(lr=0.3)), records=[{"device": "cpu"}]))
    assert not same_run(one, about(settings=asdict(settings()), records=[{"device": "cuda"}]))
    assert not same_run(one, about(settings=asdict(settings()), records=[{"device": "cpu"}], lists="others"))


def test_other_images_are_refused_and_other_versions_said(capsys: pytest.CaptureFixture[str]) -> None:
    saved = about(records=[{"images": "one", "torch": "2.13"}, {"images": "one", "torch": "2.14"}])
    check_record(saved, {"images": "one", "torch": "2.14"}, Path("last"), Path("csv/lab3"))
    check_record(about(), {"images": "one"}, Path("last"), Path("csv/lab3"))  # a checkpoint without records
    assert capsys.readouterr().out == ""
    check_record(saved, {"images": "one", "torch": "2.15"}, Path("last"), Path("csv/lab3"))
    assert "resumes with changes" in (said := capsys.readouterr().out) and "torch 2.14 → 2.15" in said
    with pytest.raises(UserError, match=r"last: images of csv/lab3 have changed .*--fresh"):
        check_record(saved, {"images": "two", "torch": "2.14"}, Path("last"), Path("csv/lab3"))


# ---- the same again, and going on

VARIANTS = {
    "sgd": [],
    "adamw, sizes by thirds": ["--optimizer", "adamw", "--lr", "0.01", "--size", "48", "--progressive"],
    "accumulated, weighted": ["--accumulate", "2", "--class-weights", "balanced", "--clip", "0", "--warmup", "0"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trained: Path
) -> tuple[Path, list[str]]:
    """A run that nothing interrupted, and its options."""
    folder, options = tmp_path_factory.mktemp("whole"), VARIANTS[request.param]
    with inside(folder, figures=False):
        command(train, "--data", trained / "csv" / "tiny", *FAST, *options)
    return folder, options


def test_the_same_seed_gives_the_same_run(
    whole: tuple[Path, list[str]], tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    run(*whole[1])
    assert_same_run(whole[0], tmp_path)


@pytest.mark.parametrize(("at", "written"), [(1, True), (2, False), (2, True), (3, True)])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    whole: tuple[Path, list[str]],
    tmp_path: Path,
    work: pytest.MonkeyPatch,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    at: int,
    written: bool,
) -> None:
    """Stopped after epoch 1, within epoch 2 (its best perhaps written, its last not), after epoch 2, and after the last one."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, at, written)
        run(*whole[1])
    epoch = at if written else at - 1
    assert read_state(tmp_path / "weights" / "tiny" / "resnet18" / "last.safetensors").epoch == epoch
    assert "\ntime: about " in capsys.readouterr().out
    run(*whole[1])
    said = capsys.readouterr().out
    assert f"resnet18: resuming after epoch {epoch} of 3, best valid accuracy" in said
    assert epoch == 3 or " left, from a measured step" in said
    assert_same_run(whole[0], tmp_path)


OLD = {"valid_accuracy": "test_accuracy", "valid_loss": "test_loss"}  # columns as earlier versions named them


def test_a_run_begun_under_the_old_names_of_columns_resumes_under_todays(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    """Earlier versions wrote test_accuracy and test_loss into the histories of both checkpoints."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 2, True)
        run()
    paths = [tmp_path / "weights" / "tiny" / "resnet18" / f"{name}.safetensors" for name in ("best", "last")]
    for path in paths:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata()
        said = json.loads(header["about"])
        said["history"] = [{OLD.get(name, name): value for name, value in row.items()} for row in said["history"]]
        header["about"] = json.dumps(said)
        safetensors.torch.save_file(read_tensors(path), path, header)
        assert b"test_accuracy" in path.read_bytes()
    run()
    assert_same_run(trained, tmp_path)
    assert not any(b"test_accuracy" in path.read_bytes() for path in paths)


def test_fp16_with_its_loss_scaler_goes_on_as_well(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    """As on a GPU without bf16. The scaler skips the first steps, whose scaled gradients overflow."""
    work.setattr(train, "choose_hardware", lambda *_: Hardware(torch.device("cpu"), "fp16"))
    work.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0**24))
    run("--weights", "a", "--report", "a")
    scaler = read_state(tmp_path / "a" / "tiny" / "resnet18" / "last.safetensors").scaler
    assert scaler["scale"] != 2.0**24  # it has been at work
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1, True)
        run("--weights", "b", "--report", "b")
    run("--weights", "b", "--report", "b")
    whole, resumed = (read_tensors(tmp_path / name / "tiny" / "resnet18" / "last.safetensors") for name in "ab")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and whole.keys() == resumed.keys()
    assert all(torch.isfinite(tensor).all() for tensor in whole.values() if tensor.is_floating_point())


def test_another_seed_gives_another_run(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    run("--seed", "1")
    found, expected = (
        read_tensors(folder / "weights" / "tiny" / "resnet18" / "last.safetensors") for folder in (tmp_path, trained)
    )
    assert not torch.equal(found["train.conv1.weight"], expected["train.conv1.weight"])


def test_a_finished_run_says_so_and_changes_nothing(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    before = outputs(tmp_path)
    capsys.readouterr()
    run()
    assert "resnet18: finished already, best valid accuracy" in (said := capsys.readouterr().out) and "--fresh" in said
    assert outputs(tmp_path) == before


def test_fresh_starts_over(
    tmp_path: Path,
    trained: Path,
    work: pytest.MonkeyPatch,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("--epochs", "2", "--lr", "0.3", "--seed", "5")
    capsys.readouterr()
    run("--fresh")
    assert "epoch 1/3" in capsys.readouterr().out
    assert_same_run(trained, tmp_path)  # nothing of the earlier run is left


def test_a_fresh_run_that_is_interrupted_at_once_leaves_no_mixture(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    """Stopped between its first best and its first last checkpoint: the earlier run's last must not be taken for its own."""
    run("--epochs", "2", "--seed", "5")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1, written=False)
        run("--fresh")
    run()
    assert_same_run(trained, tmp_path)


def test_other_settings_are_refused_and_change_nothing(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    run()
    before = outputs(tmp_path)
    with pytest.raises(
        UserError, match=r"finished already, with other settings \(epochs 3 → 5; lr 0.1 → 0.2\); --fresh"
    ):
        run("--epochs", "5", "--lr", "0.2")
    assert outputs(tmp_path) == before


def test_options_left_out_are_those_that_the_run_began_with(
    whole: tuple[Path, list[str]],
    trained: Path,
    tmp_path: Path,
    work: pytest.MonkeyPatch,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``train.py --model … --data …`` is enough to go on, and to hear that a run has finished."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1, True)
        run(*whole[1])
    short: list[str | Path] = ["--data", trained / "csv" / "tiny", "--device", "cpu", "--precision", "fp32"]
    command(train, *short)
    assert_same_run(whole[0], tmp_path)
    capsys.readouterr()
    command(train, *short)
    assert "resnet18: finished already" in capsys.readouterr().out


def test_a_best_checkpoint_alone_is_not_written_over(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    """As when somebody copies only the best one, even where the first epoch was the best."""
    run("--epochs", "1")
    (tmp_path / "weights" / "tiny" / "resnet18" / "last.safetensors").unlink()
    before = outputs(tmp_path)
    for epochs in ("1", "3"):
        with pytest.raises(UserError, match=r"best.safetensors is there without last.safetensors.*--fresh"):
            run("--epochs", epochs)
    assert outputs(tmp_path) == before


def test_a_place_that_cannot_be_written_is_said_before_the_first_step(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    work.setattr(EMA, "update", lambda *_: pytest.fail("a step was taken"))
    for option in ("--weights", "--report"):
        with pytest.raises(OSError, match="taken"):
            run(option, "taken")


def test_other_classes_are_refused(tmp_path: Path, work: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "csv" / "named")
    command(train, "--data", "named", *FAST, "--epochs", "1")
    (data / "classes.csv").write_text("label,name\n0,cat\n1,dog\n")
    with pytest.raises(UserError, match=r"trained on 2 classes \['normal', 'leukemia blast'\].*\['cat', 'dog'\]"):
        command(train, "--data", "named", *FAST, "--epochs", "1")


def test_lists_that_have_changed_since_a_run_began_are_refused(tmp_path: Path, work: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "csv" / "changing")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1, True)
        command(train, "--data", "changing", *FAST)
    path = data / "valid.csv"
    path.write_text(path.read_text().replace("./valid/3.png,1", "./valid/3.png,0"))
    before = outputs(tmp_path)
    with pytest.raises(UserError, match=r"csv/changing has changed since this run began; --fresh starts over"):
        command(train, "--data", "changing", *FAST)
    assert outputs(tmp_path) == before
    command(train, "--data", "changing", *FAST, "--fresh")


def test_a_lost_best_is_said(tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]) -> None:
    run()
    (tmp_path / "weights" / "tiny" / "resnet18" / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"best.safetensors: missing beside last.safetensors.*--fresh"):
        run()


def test_another_depths_last_checkpoint_is_refused(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    folder = tmp_path / "weights" / "tiny" / "resnet18"
    folder.mkdir(parents=True)
    (folder / "last.safetensors").write_bytes((trained / "weights/tiny/resnet50/last.safetensors").read_bytes())
    with pytest.raises(UserError, match="expected weights of resnet18, found weights of resnet50"):
        run()
