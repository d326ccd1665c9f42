"""Two processes that train together, started by torchrun over Gloo, against one process at the same batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from lab.checkpoints.checkpoint import read_about, read_state, read_tensors
from lab.data.batches import Batches
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store
from lab.distributed import ALONE, Ranks, join
from lab.errors import UserError
from lab.training.recipe import divide
from tests.made import (
    FAST,
    LAST,
    LOOPBACK,
    PATIENCE,
    PROJECT,
    VALID,
    Trainer,
    assert_same_run,
    command,
    contents,
    inside,
    make_data,
)
from tests.made import settings as made_settings

RUN = ["--data", "csv/tiny", *FAST, "--batch-size", "8"]


def torchrun(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train with two processes in ``folder``, started by torchrun."""
    run = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), **LOOPBACK}
    line = [sys.executable, "-m", *run, str(PROJECT / "tests" / "thin_train.py"), *options]
    return subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE)


def ranks(trainer: Trainer, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Train with two processes in ``folder``, started as torchrun does but within a second."""
    return trainer.run(folder, *options, ranks=2, SNAPSHOT="600", **environment)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("together")
    make_data(folder / "csv" / "tiny")
    done = torchrun(folder, *RUN)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_ranks_train_as_one_process_with_two_parts(together: tuple[Path, str]) -> None:
    """Batch norm sees parts of the batch either way, so weights agree up to rounding; its running statistics do not, which
    one process gathers over both parts and two processes each over their own."""
    folder, _ = together
    with inside(folder, figures=False):
        command(train, *RUN, "--accumulate", "2", "--weights", "alone", "--report", "alone")
    path = Path("tiny", "resnet18", "last.safetensors")
    expected, found = read_tensors(folder / "alone" / path), read_tensors(folder / "weights" / path)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    tables = [pd.read_csv(folder / kind / "tiny" / "history_resnet18.csv") for kind in ("alone", "report")]
    for column in ("train_accuracy", "train_loss", "learning_rate", "epoch"):
        np.testing.assert_allclose(tables[1][column], tables[0][column], rtol=1e-3)


def test_the_first_rank_alone_prints_and_writes(together: tuple[Path, str]) -> None:
    folder, printed = together
    assert printed.count("ranks: 2 processes") == printed.count("resnet18 epoch 3/3") == 1
    assert "batch: 8 images per step" in printed
    written = {name for name in contents(folder) if name.startswith(("weights", "report"))}
    assert written == {
        "weights/tiny/resnet18/best.safetensors",
        "weights/tiny/resnet18/last.safetensors",
        "report/tiny/history_resnet18.csv",
        "report/tiny/run_resnet18.json",
    }


def test_another_number_of_processes_goes_on(trainer: Trainer, tmp_path: Path) -> None:
    """Two processes stop after the first epoch; one goes on to the end, with the same rows so far."""
    make_data(tmp_path / "csv" / "tiny")
    stopped = ranks(trainer, tmp_path, *RUN, STOP_AFTER="1")
    assert stopped.returncode != 0 and "stopped by Ctrl-C" in stopped.stderr
    last = tmp_path / "weights" / "tiny" / "resnet18" / "last.safetensors"
    before = read_about(last)
    assert read_state(last).epoch == 1
    with inside(tmp_path, figures=False):
        command(train, *RUN)
    after = read_about(last)
    assert after.finished and len(after.history) == 3 and after.history[0] == before.history[0]


def test_a_signal_to_one_stops_both_after_the_same_step_and_both_go_on(
    together: tuple[Path, str], trainer: Trainer, tmp_path: Path
) -> None:
    """To the one that writes nothing: what the other keeps is of the same step, and the end is that of a run never stopped."""
    make_data(tmp_path / "csv" / "tiny")
    hold = tmp_path / "hold"
    hold.write_text("4")
    trainer.until_held(tmp_path, trainer.start(tmp_path, *RUN, ranks=2, SNAPSHOT="600"))
    os.kill(trainer.children[1], signal.SIGINT)
    hold.unlink()
    assert trainer.status() != 0 and "start the same command again to resume" in (tmp_path / "stderr0").read_text()
    state = read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 2)
    done = ranks(trainer, tmp_path, *RUN)
    assert done.returncode == 0, done.stderr
    assert_same_run(together[0], tmp_path)


def test_a_loss_that_is_no_number_on_one_rank_takes_both_back(trainer: Trainer, tmp_path: Path) -> None:
    make_data(tmp_path / "csv" / "tiny")
    done = ranks(trainer, tmp_path, *RUN, NAN_ON="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2: the loss is no longer a finite number; returning") == 1
    about = read_about(tmp_path / LAST)
    assert about.finished and read_state(tmp_path / LAST).lr_factor == 0.5 and len(about.history) == 3
    assert all(bool(tensor.isfinite().all()) for tensor in read_tensors(tmp_path / LAST).values())


def test_what_is_wrong_is_said_once(trainer: Trainer, tmp_path: Path) -> None:
    done = ranks(trainer, tmp_path, "--data", "csv/nowhere")
    assert done.returncode != 0 and done.stderr.count("no lists found for --data csv/nowhere") == 1
    assert (tmp_path / "stderr1").read_text() == ""  # no traceback of the one that waited


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [10, 23])
def test_the_ranks_share_out_every_image(count: int, images: int) -> None:
    """Training: what one process would take, in the same order, each batch once, as many for each. Valid: all, in order."""
    store = Store(np.zeros((images, 64, 64, 3), np.uint8), np.arange(images), [""] * images)
    preprocessing, labels = Preprocessing(64, 64, 32, "cell"), np.arange(images)

    def taken(ranks: Ranks, seed: int | None) -> list[list[int]]:
        return [
            batch.tolist() for _, _, batch in Batches(store, labels, preprocessing, 2, torch.device("cpu"), seed, ranks)
        ]

    together = [taken(Ranks(rank, count), 0) for rank in range(count)]
    rounds = list(zip(*together, strict=True))  # raises where one has more than another
    flat = [batch for step in rounds for batch in step]
    assert flat == taken(ALONE, 0)[: len(flat)] and len(flat) > images // 2 - count
    assert [i for rank in range(count) for batch in taken(Ranks(rank, count), None) for i in batch] == list(
        range(images)
    )


def test_how_a_batch_is_divided() -> None:
    settings = made_settings(batch_size=8, accumulate=2)
    assert divide(settings, ALONE, 100) == (4, 2)
    assert divide(settings, Ranks(0, 2), 100) == (2, 2)
    assert divide(settings, ALONE, 7) == (3, 2)  # fewer images than a batch: as many as come out even
    assert divide(settings, ALONE, 100, at_once=3) == (2, 4)  # the memory holds three at once, but 3 does not divide 8
    assert divide(settings, ALONE, 100, at_once=8) == (4, 2)
    with pytest.raises(UserError, match=r"--batch-size 8 cannot be divided into 8 .*\(processes: 4, --accumulate 2\)"):
        divide(settings, Ranks(0, 4), 100)
    with pytest.raises(UserError, match=r"cannot be divided into 4 .* of the 5 images"):
        divide(settings, Ranks(0, 2), 5)
    with pytest.raises(UserError, match="even two images at once"):
        divide(settings, ALONE, 100, at_once=1)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = np.eye(VALID)
    network = torch.nn.Linear(1, 1)
    assert join() == ALONE and ALONE.first
    assert ALONE.join_rows(rows) is rows and ALONE.parallel(network, torch.device("cpu")) is network
