"""Interruption: wherever a run is stopped or killed, the next start goes on and ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import predict
import train
from lab.checkpoints.checkpoint import read_about, read_state, read_tensors
from lab.errors import UserError, run
from lab.files import alone
from lab.signals import Stop, Stopped
from lab.training.ema import EMA
from lab.training.forecast import Pace
from tests.made import FAST, LAST, LONG, Trainer, assert_same_run, command, inside, make_data

KILLS = 20


@pytest.fixture
def again(trained: Path) -> Callable[[], object]:
    """Start the run that ``trained`` holds in the working directory, or go on with it."""
    return lambda: command(train, "--data", trained / "csv" / "tiny", *FAST)


def strike(patch: pytest.MonkeyPatch, target: Any, name: str, at: int, *numbers: int) -> None:
    """Send this process signals in the ``at``-th call of a function."""
    called, function = 0, getattr(target, name)

    def struck(*given: Any, **more: Any) -> Any:
        nonlocal called
        called += 1
        if called == at:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
        return function(*given, **more)

    patch.setattr(target, name, struck)


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 5, 6])
def test_a_signal_waits_for_the_step_and_the_run_goes_on_within_the_epoch(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, again: Callable[[], None], number: int, step: int
) -> None:
    """Three steps make an epoch: stopped in its first step, in a middle one, in its last."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stopped:
        strike(patch, EMA, "update", step, number)
        again()
    state = read_state(tmp_path / LAST)
    assert stopped.value.number == number
    assert 3 * state.epoch + state.step == step  # the step was finished, and no other begun
    again()
    assert_same_run(trained, tmp_path)


def test_a_signal_while_validating_keeps_the_epochs_training(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        strike(patch, train, "predict", 2, signal.SIGINT)
        again()
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 3)
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        update = EMA.update

        def counted(self: EMA, step: int) -> None:
            steps.append(step)
            update(self, step)

        patch.setattr(EMA, "update", counted)
        again()
    assert steps == [6, 7, 8]  # only the third epoch is trained
    assert_same_run(trained, tmp_path)


def test_a_second_ctrl_c_ends_at_once_with_whole_files(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    work.setattr("lab.signals.AGAIN", 0.0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        strike(patch, EMA, "update", 5, signal.SIGINT, signal.SIGINT)
        again()
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 0)  # the step was not waited for
    again()
    assert_same_run(trained, tmp_path)


def test_a_signal_passed_on_at_once_is_no_second_one() -> None:
    stop = Stop()
    stop.patient = True
    stop.note(signal.SIGINT, None)
    stop.note(signal.SIGINT, None)  # torchrun's, of the same Ctrl-C
    assert stop.asked == signal.SIGINT
    stop.when -= 1
    with pytest.raises(Stopped):
        stop.note(signal.SIGINT, None)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_status_names_the_signal(number: int, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Stopped(number)

    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == status
    assert "start the same command again to resume" in capsys.readouterr().err


def test_afterwards_signals_do_what_they_did(work: pytest.MonkeyPatch, again: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    again()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- real processes


def predict_in(folder: Path) -> bytes:
    """The submission of the run in ``folder``."""
    with inside(folder):
        command(predict, "--data", "tiny", "--model", "resnet18", "--device", "cpu", "--precision", "fp32")
    return (folder / "csv" / "tiny" / "submission_resnet18.csv").read_bytes()


def test_killed_at_random_moments_it_ends_the_same(
    trainer: Trainer, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    """At least twenty kills, in runs begun anew whenever one has ended: while images are decoded, within and between epochs,
    while files are written."""
    whole, seconds = uninterrupted
    kills, rounds, draw = 0, 0, random.Random(0)
    predicted = predict_in(whole)
    while kills < KILLS:
        folder = tmp_path / str(rounds)
        make_data(folder / "csv" / "tiny")
        rounds += 1
        for _ in range(100):
            child = trainer.start(folder, *LONG)
            delay = time.monotonic() + draw.uniform(0, 0.5 * seconds)
            while time.monotonic() < delay and Path(f"/proc/{child}").exists():
                time.sleep(0.002)
            if kills < KILLS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            status = trainer.status()
            if status == 0:
                break
            assert status == -signal.SIGKILL, (folder / "stderr").read_text()
            kills += 1
        assert status == 0
        assert_same_run(whole, folder)
        assert predict_in(folder) == predicted
        assert not list(folder.rglob("*.tmp*"))  # what was half written is taken away


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside(
    trainer: Trainer, uninterrupted: tuple[Path, float], tmp_path: Path, number: int, status: int
) -> None:
    make_data(tmp_path / "csv" / "tiny")
    hold = tmp_path / "hold"
    hold.write_text("20")  # it waits in its 21st step for this file to go
    child = trainer.start(tmp_path, *LONG)
    trainer.until_held(tmp_path, child)
    os.kill(child, number)
    hold.unlink()
    assert trainer.status() == status
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (3, 3)
    assert "start the same command again to resume" in (tmp_path / "stderr").read_text()
    trainer.start(tmp_path, *LONG)
    assert trainer.status() == 0
    assert_same_run(uninterrupted[0], tmp_path)


# ---- two at once, and a loss that is no number


def test_a_second_training_of_the_same_model_is_refused(
    tmp_path: Path, work: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    refusal = pytest.raises(UserError, match=r"weights/tiny/resnet18: another process is training there; wait")
    with alone(tmp_path / "weights" / "tiny" / "resnet18", "training"), refusal:
        again()
    again()


def not_a_number(patch: pytest.MonkeyPatch, *calls: int) -> None:
    """Let the loss be NaN in these training steps, counted over all attempts; in every step from the last one on if negative."""
    cross_entropy, number = torch.nn.functional.cross_entropy, 0

    def broken(*given: Any, **more: Any) -> torch.Tensor:
        nonlocal number
        number += 1
        wrong = number in calls or any(call < 0 and number >= -call for call in calls)
        return cross_entropy(*given, **more) * (float("nan") if wrong else 1.0)

    patch.setattr(train.functional, "cross_entropy", broken)
    pace = Pace(32, 32, (1.0, 1.0), (1.0, 1.0))
    patch.setattr(train, "measure_what_fits", lambda *given: (given[3], given[-1], pace))


def test_a_snapshot_never_holds_weights_that_are_no_numbers(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    """An infinite gradient of a finite loss, in the very step after which the run is to stop."""
    clip, steps = torch.nn.utils.clip_grad_norm_, 0

    def once(parameters: Iterator[torch.nn.Parameter], limit: float) -> torch.Tensor:
        nonlocal steps
        steps += 1
        given = list(parameters)
        norm = clip(given, limit)
        for parameter in given if steps == 5 else []:
            assert parameter.grad is not None
            parameter.grad.fill_(float("inf"))
        return norm

    work.setattr(train.nn.utils, "clip_grad_norm_", once)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        strike(patch, EMA, "update", 5, signal.SIGINT)
        again()
    assert all(torch.isfinite(t).all() for t in read_tensors(tmp_path / LAST).values() if t.is_floating_point())
    again()
    assert read_about(tmp_path / LAST).finished


def test_a_run_stopped_in_its_first_epoch_troubles_no_other(tmp_path: Path, trained: Path) -> None:
    """With the figure that all depths share drawn after every epoch."""
    with inside(tmp_path) as work:
        work.setattr(train, "draw_data_figures", lambda *_: None)
        for _ in range(2):  # stopped, gone on with, and stopped again
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
                strike(patch, EMA, "update", 1, signal.SIGINT)
                command(train, "--data", trained / "csv" / "tiny", *FAST)
        command(train, "--data", trained / "csv" / "tiny", *FAST, "--model", "resnet50", "--epochs", "1")
        assert (tmp_path / "report" / "tiny" / "accuracy_comparison.png").is_file()


@pytest.mark.parametrize("call", [1, 5, 9])
def test_a_diverged_run_goes_back_once_with_half_the_learning_rate(
    tmp_path: Path,
    trained: Path,
    work: pytest.MonkeyPatch,
    again: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    call: int,
) -> None:
    not_a_number(work, call)
    again()
    said = capsys.readouterr().out
    assert f"epoch {(call - 1) // 3 + 1}: the loss is no longer a finite number; returning" in said
    about = read_about(tmp_path / LAST)
    assert about.finished and read_state(tmp_path / LAST).lr_factor == 0.5 and len(about.history) == 3
    usual = read_about(trained / LAST).history
    halved = (call - 1) // 3  # from this epoch on
    for epoch, (row, other) in enumerate(zip(about.history, usual, strict=True)):
        assert row["learning_rate"] == pytest.approx(other["learning_rate"] * (0.5 if epoch >= halved else 1))
    for name in ("last", "best"):
        tensors = read_tensors(tmp_path / LAST.with_name(f"{name}.safetensors"))
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())


def test_a_run_that_diverges_again_gives_up_with_its_checkpoints_whole(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    not_a_number(work, -5)  # in the second epoch and ever after
    with pytest.raises(
        UserError, match=r"resnet18 epoch 2: .* with half the learning rate too; its checkpoints are kept"
    ):
        again()
    for name in ("last", "best"):
        tensors = read_tensors(tmp_path / LAST.with_name(f"{name}.safetensors"))
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
    assert read_state(tmp_path / LAST).epoch == 1
