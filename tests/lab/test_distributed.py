"""Two processes that train together, started by torchrun over Gloo, compared with one process at the same batch size."""

from __future__ import annotations

import os
import shutil
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
from tests import made
from tests.made import BEST, FAST, HISTORY, LAST, LOOPBACK, PATIENCE, PROJECT, VALID, Patch, Trainer

RUN = ["--data", "csv/tiny", *FAST, "--batch-size", "8"]


def torchrun(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train with two processes in ``folder``, started by torchrun."""
    run = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), **LOOPBACK}
    line = [sys.executable, "-m", *run, str(PROJECT / "tests" / "thin_train.py"), *options]
    return subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE)


def ranks(trainer: Trainer, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Train with two processes in ``folder``, with the environment that torchrun sets, but started within a second."""
    return trainer.run(folder, *options, ranks=2, SNAPSHOT="600", **environment)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes: its folder and its output."""
    folder = tmp_path_factory.mktemp("together")
    made.make_data(folder / "csv" / "tiny")
    done = torchrun(folder, *RUN)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_ranks_train_as_one_process_with_two_parts(together: tuple[Path, str]) -> None:
    """The weights agree up to rounding, because batch norm normalises the same parts. Its running statistics do not: one process
    updates them with both parts, each of two processes with its own part."""
    folder, _ = together
    with made.inside(folder, figures=False):
        made.command(train, *RUN, "--accumulate", "2", "--weights", "alone/weights", "--report", "alone/report")
    together_tensors, alone = read_tensors(folder / LAST), read_tensors(folder / "alone" / LAST)
    assert together_tensors.keys() == alone.keys()
    for name, tensor in alone.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(together_tensors[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    # Both know the whole lists, although each of two processes validates half of one.
    abouts = [read_about(path / BEST) for path in (folder, folder / "alone")]
    np.testing.assert_allclose(abouts[0].typical, abouts[1].typical, rtol=1e-5)
    assert abouts[0].confidence["unlike"] == pytest.approx(abouts[1].confidence["unlike"], rel=1e-5)
    columns = ["train_accuracy", "train_loss", "learning_rate", "epoch"]
    one, other = (pd.read_csv(path / HISTORY)[columns].to_numpy() for path in (folder, folder / "alone"))
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_the_first_rank_alone_prints_and_writes(together: tuple[Path, str]) -> None:
    folder, printed = together
    assert printed.count("ranks: 2 processes") == printed.count("resnet18 epoch 3/3") == 1
    assert "batch: 8 images per step" in printed
    written = {name for name in made.contents(folder) if name.startswith(("weights", "report"))}
    others = (HISTORY.with_name(name) for name in ("run_resnet18.json", "log_resnet18.txt"))
    assert written == {*map(str, (BEST, LAST, HISTORY, *others))}


def test_a_signal_to_one_stops_both_and_any_number_of_processes_resumes(
    together: tuple[Path, str], trainer: Trainer, tmp_path: Path
) -> None:
    """The signal goes to the process that writes no files. Two processes end like an uninterrupted run, one trains the rest."""
    made.make_data(tmp_path / "csv" / "tiny")
    with trainer.held(tmp_path, 4, *RUN, ranks=2, SNAPSHOT="600"):
        os.kill(trainer.children[1], signal.SIGINT)
    assert trainer.status() != 0 and "start the same command again to resume" in (tmp_path / "stderr0").read_text()
    before, state = read_about(tmp_path / LAST), read_state(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 2)
    shutil.copytree(tmp_path / "weights", tmp_path / "alone")
    done = ranks(trainer, tmp_path, *RUN)
    assert done.returncode == 0, done.stderr
    made.assert_same_run(together[0], tmp_path)
    with made.inside(tmp_path, figures=False):
        made.command(train, *RUN, "--weights", "alone")
    after = read_about(tmp_path / "alone" / LAST.relative_to("weights"))
    assert after.finished and len(after.history) == 3 and after.history[0] == before.history[0]


def test_a_loss_that_is_not_finite_on_one_rank_returns_both(trainer: Trainer, tmp_path: Path) -> None:
    made.make_data(tmp_path / "csv" / "tiny")
    done = ranks(trainer, tmp_path, *RUN, NAN_ON="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2: the loss is no longer a finite number; returning") == 1
    about = read_about(tmp_path / LAST)
    assert about.finished and read_state(tmp_path / LAST).lr_factor == 0.5 and len(about.history) == 3
    made.assert_finite(tmp_path / LAST)


def test_an_error_is_printed_once(trainer: Trainer, tmp_path: Path) -> None:
    done = ranks(trainer, tmp_path, "--data", "csv/nowhere")
    assert done.returncode != 0 and done.stderr.count("no lists found for --data csv/nowhere") == 1
    other = tmp_path / "stderr1"  # missing if the process was ended before it began to write
    assert not other.exists() or other.read_text() == ""  # no traceback of the process that waited


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [10, 23])
def test_the_ranks_share_every_image(count: int, images: int) -> None:
    """In training the batches of one process in the same order, each once and as many per rank. In validation all, in order."""
    store = Store(np.zeros((images, 64, 64, 3), np.uint8), np.arange(images), [""] * images)
    preprocessing, labels = Preprocessing(64, 64, 32, "cell"), np.arange(images)

    def indices(ranks: Ranks, seed: int | None) -> list[list[int]]:
        batches = Batches(store, labels, preprocessing, 2, torch.device("cpu"), seed, ranks)
        return [batch.tolist() for _, _, batch in batches]

    all_ranks = [Ranks(rank, count) for rank in range(count)]
    # Raises if a rank has more batches than another.
    steps = zip(*(indices(ranks, 0) for ranks in all_ranks), strict=True)
    trained = [batch for step in steps for batch in step]
    assert trained == indices(ALONE, 0)[: len(trained)] and len(trained) > images // 2 - count
    assert [i for ranks in all_ranks for batch in indices(ranks, None) for i in batch] == list(range(images))


def test_how_a_batch_is_divided() -> None:
    settings = made.settings(batch_size=8, accumulate=2)
    assert divide(settings, ALONE, 100) == (4, 2)
    assert divide(settings, Ranks(0, 2), 100) == (2, 2)
    assert divide(settings, ALONE, 7) == (3, 2)  # fewer images than a batch
    assert divide(settings, ALONE, 100, at_once=3) == (2, 4)  # three images fit into memory, but 3 does not divide 8
    assert divide(settings, ALONE, 100, at_once=8) == (4, 2)
    with pytest.raises(UserError, match=r"--batch-size 8 cannot be divided into 8 .*\(processes: 4, --accumulate 2\)"):
        divide(settings, Ranks(0, 4), 100)
    with pytest.raises(UserError, match=r"cannot be divided into 4 .* of the 5 images"):
        divide(settings, Ranks(0, 2), 5)
    with pytest.raises(UserError, match="even two images at once"):
        divide(settings, ALONE, 100, at_once=1)


def test_without_torchrun_a_process_is_alone(monkeypatch: Patch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = np.eye(VALID)
    network = torch.nn.Linear(1, 1)
    assert join() == ALONE and ALONE.first
    assert ALONE.join_rows(rows) is rows and ALONE.parallel(network, torch.device("cpu")) is network
