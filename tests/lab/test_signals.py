"""Interruptions: a run that is stopped or killed anywhere is resumed and ends like an uninterrupted one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

import predict
import train
from lab.checkpoints.checkpoint import read_about, read_state
from lab.errors import UserError
from lab.files import alone
from lab.signals import Stop, Stopped
from lab.training.ema import EMA
from lab.training.forecast import Pace
from tests import made
from tests.made import BEST, FAST, LAST, LONG, Capture, Patch, Run, Trainer

KILLS = 20

# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 5, 6])
def test_a_signal_waits_for_the_step_and_the_run_is_resumed_within_the_epoch(
    tmp_path: Path, trained: Path, run: Run, number: int, step: int
) -> None:
    """In the first, a middle and the last step of an epoch of three."""
    with made.signalled(EMA, "update", step, number) as stopped:
        run()
    state = read_state(tmp_path / LAST)
    assert stopped.value.number == number
    assert 3 * state.epoch + state.step == step  # the step was finished, and no other started
    run()
    made.assert_same_run(trained, tmp_path)


def test_a_signal_while_validating_keeps_the_training_of_the_epoch(
    tmp_path: Path, trained: Path, work: Patch, run: Run
) -> None:
    with made.signalled(train, "predict", 2, signal.SIGINT):
        run()
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 3)
    steps: list[int] = []
    made.after_steps(work, lambda _, step: steps.append(step))
    run()
    assert steps == [6, 7, 8]  # of the third epoch
    made.assert_same_run(trained, tmp_path)


def test_a_second_ctrl_c_stops_at_once_with_whole_files(tmp_path: Path, trained: Path, work: Patch, run: Run) -> None:
    work.setattr("lab.signals.AGAIN", 0.0)
    with made.signalled(EMA, "update", 5, signal.SIGINT, signal.SIGINT):
        run()
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 0)  # without waiting for the step
    run()
    made.assert_same_run(trained, tmp_path)


def test_a_signal_that_torchrun_passes_on_is_not_a_second_one() -> None:
    stop = Stop()
    stop.patient = True
    stop.note(signal.SIGINT, None)
    stop.note(signal.SIGINT, None)  # torchrun's, of the same Ctrl-C
    assert stop.asked == signal.SIGINT
    stop.when -= 1
    with pytest.raises(Stopped):
        stop.note(signal.SIGINT, None)


def test_the_signal_handlers_are_restored(run: Run) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run("--epochs", "1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- child processes


def predict_in(folder: Path) -> bytes:
    """The submission of the run in ``folder``."""
    with made.inside(folder):
        made.command(predict, "--data", "tiny", "--model", "resnet18", "--device", "cpu", "--precision", "fp32")
    return (folder / "csv" / "tiny" / "submission_resnet18.csv").read_bytes()


def test_killed_at_random_moments_a_run_ends_the_same(
    trainer: Trainer, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    """At least twenty kills: while images are decoded, within and between epochs, while files are written. A new run starts
    whenever one has ended."""
    whole, seconds = uninterrupted
    kills, rounds, draw = 0, 0, random.Random(0)
    predicted = predict_in(whole)
    while kills < KILLS:
        folder = tmp_path / str(rounds)
        made.make_data(folder / "csv" / "tiny")
        rounds += 1
        for _ in range(100):
            child = trainer.start(folder, *LONG)
            end = time.monotonic() + draw.uniform(0, 0.5 * seconds)
            while time.monotonic() < end and Path(f"/proc/{child}").exists():
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
        made.assert_same_run(whole, folder)
        assert predict_in(folder) == predicted
        assert not list(folder.rglob("*.tmp*"))  # half-written files are removed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside(
    trainer: Trainer, uninterrupted: tuple[Path, float], tmp_path: Path, number: int, status: int
) -> None:
    made.make_data(tmp_path / "csv" / "tiny")
    with trainer.held(tmp_path, 20, *LONG) as child:
        os.kill(child, number)
    assert trainer.status() == status
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (3, 3)
    assert "start the same command again to resume" in (tmp_path / "stderr").read_text()
    assert trainer.run(tmp_path, *LONG).returncode == 0
    made.assert_same_run(uninterrupted[0], tmp_path)


def test_a_second_training_of_the_same_model_is_refused(tmp_path: Path, run: Run) -> None:
    refusal = pytest.raises(UserError, match=r"weights/tiny/resnet18: another process is training there; wait")
    with alone((tmp_path / LAST).parent, "training"), refusal:
        run()
    run("--epochs", "1")


def test_a_run_stopped_in_its_first_epoch_does_not_disturb_other_models(tmp_path: Path, trained: Path) -> None:
    """All depths share the figure, which is drawn after every epoch."""
    line: list[str | Path] = ["--data", trained / "csv" / "tiny", *FAST]
    with made.inside(tmp_path) as patch:
        patch.setattr(train, "draw_data_figures", lambda *_: None)
        for _ in range(2):  # stopped, resumed and stopped again
            with made.signalled(EMA, "update", 1, signal.SIGINT):
                made.command(train, *line)
        made.command(train, *line, "--model", "resnet50", "--epochs", "1")
        assert (tmp_path / "report" / "tiny" / "accuracy_comparison.png").is_file()


# ---- losses and weights that are not finite


@pytest.fixture
def unmeasured(work: Patch) -> None:
    """No step is measured before the first epoch, so that a run calls the loss only in training steps."""
    pace = Pace(32, 32, (1.0, 1.0), (1.0, 1.0))
    work.setattr(train, "measure_what_fits", lambda *args: (args[3], args[-1], pace))


def test_a_snapshot_never_contains_weights_that_are_not_finite(tmp_path: Path, work: Patch, run: Run) -> None:
    """An infinite gradient of a finite loss, in the step after which the run has to stop."""
    clip, steps = train.clip_gradients, count(1)

    def clip_once_to_infinity(parameters: Iterator[torch.nn.Parameter], limit: float) -> None:
        clip(gradients := list(parameters), limit)
        for parameter in gradients if next(steps) == 5 else []:
            assert parameter.grad is not None
            parameter.grad.fill_(float("inf"))

    work.setattr(train, "clip_gradients", clip_once_to_infinity)
    with made.signalled(EMA, "update", 5, signal.SIGINT):
        run()
    made.assert_finite(tmp_path / LAST)
    run()
    assert read_about(tmp_path / LAST).finished


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_diverged_run_returns_once_with_half_the_learning_rate(
    tmp_path: Path, trained: Path, work: Patch, unmeasured: None, run: Run, capsys: Capture, step: int
) -> None:
    made.set_loss_to_nan(work, step, step)
    run()
    epoch = (step - 1) // 3
    assert f"epoch {epoch + 1}: the loss is no longer a finite number; returning" in capsys.readouterr().out
    about, usual = read_about(tmp_path / LAST), read_about(trained / LAST)
    assert about.finished and read_state(tmp_path / LAST).lr_factor == 0.5
    factors = [
        row["learning_rate"] / other["learning_rate"] for row, other in zip(about.history, usual.history, strict=True)
    ]
    assert factors == pytest.approx([1.0] * epoch + [0.5] * (3 - epoch))
    made.assert_finite(tmp_path / LAST, tmp_path / BEST)


@pytest.mark.parametrize(("first", "epoch"), [(1, 0), (5, 1)])
def test_a_run_that_diverges_again_is_an_error_and_keeps_its_checkpoints(
    tmp_path: Path, work: Patch, unmeasured: None, run: Run, first: int, epoch: int
) -> None:
    made.set_loss_to_nan(work, first, 100)
    message = (
        rf"epoch {epoch + 1}: the loss is no longer a finite number, with half .* are kept.*--fresh and a lower --lr"
    )
    with pytest.raises(UserError, match=message):
        run()
    checkpoints = [*tmp_path.rglob("*.safetensors")]
    assert len(checkpoints) == 1 + epoch and read_state(tmp_path / LAST).epoch == epoch
    made.assert_finite(*checkpoints)
