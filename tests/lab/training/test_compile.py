"""lab.training.compile: the decision with each reason, and a compiled training that ends like an uncompiled one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import train
from lab.checkpoints.checkpoint import TrainingState, read_about
from lab.distributed import ALONE, Ranks
from lab.errors import UserError
from lab.hardware import Hardware
from lab.training import compile as compiling
from lab.training.compile import decide_compile
from lab.training.forecast import Pace
from tests import made
from tests.made import FAST, HISTORY, LAST, Capture, Patch

CPU, GPU = Hardware(torch.device("cpu"), "fp32"), Hardware(torch.device("cuda"), "bf16")
HOUR = Pace(32, 64, train=(300.0, 1200.0), valid=(0.0, 0.0))  # three epochs of 20 minutes


def decide(hardware: Hardware, pace: Pace = HOUR, asked: bool | None = None, **values: Any) -> bool:
    return decide_compile(asked, a_run(hardware, **values), pace)


def a_run(hardware: Hardware, before: str = "", ranks: Ranks = ALONE, size: int = 64, train: Any = None) -> Any:
    """The attributes of a run that the decision depends on."""
    values = {"network": made.thin("resnet18"), "settings": made.settings(size=size), "train": train, "valid": None}
    about = SimpleNamespace(records=[{"compile": before}])
    return SimpleNamespace(**values, hardware=hardware, ranks=ranks, about=about, state=TrainingState())


@pytest.mark.parametrize(
    ("share", "warmup", "expected"),
    [
        (0.8, 600, "on, measured: 12 min saved after 10 min of warm-up"),
        (0.8, 900, "off, measured: 12 min saved after 15 min of warm-up"),
        (1.1, 1, "off, it is no faster"),
    ],
)
def test_measured_steps_decide_on_a_gpu(
    share: float, warmup: float, expected: str, monkeypatch: Patch, capsys: Capture
) -> None:
    """A compiled step takes this ``share`` of the time, after a warm-up in seconds."""
    clock = iter([0.0, warmup])
    fast = Pace(32, 64, (share * HOUR.train[0], share * HOUR.train[1]), (0.0, 0.0))
    monkeypatch.setattr(compiling, "measure", lambda *_: fast)
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))
    assert decide(GPU) is expected.startswith("on")
    assert capsys.readouterr().out == f"compile: {expected}\n"


def test_nothing_is_measured_if_it_cannot_pay_or_was_decided_before(monkeypatch: Patch) -> None:
    monkeypatch.setattr(compiling, "measure", lambda *_: pytest.fail("measured"))
    short = Pace(32, 64, (10.0, 40.0), (0.0, 0.0))
    assert not decide(CPU) and not decide(GPU, short)
    assert not decide(GPU, ranks=Ranks(0, 2)) and not decide(GPU, before="off")


def test_an_earlier_decision_or_the_option_is_followed_if_it_works(monkeypatch: Patch) -> None:
    attempts: list[Any] = []
    monkeypatch.setattr(compiling, "try_step", lambda run: attempts.append(run) or "")  # type: ignore[func-returns-value]
    assert decide(GPU, before="on") and decide(GPU, asked=True, before="off") and len(attempts) == 2
    assert not decide(GPU, asked=False, before="on") and len(attempts) == 2
    monkeypatch.setattr(Ranks, "any", lambda *_: True)  # compiling fails on the other rank
    assert not decide(GPU, before="on", ranks=Ranks(0, 2))


@pytest.mark.parametrize(("error", "reason"), [(RuntimeError("no triton\nhere"), "no triton"), (MemoryError(), "")])
def test_a_failed_step_returns_the_reason(error: Exception, reason: str, monkeypatch: Patch) -> None:
    """Except for out of memory, which the run itself handles."""

    def broken(_: nn.Module) -> Any:
        def fail(_: torch.Tensor) -> None:
            raise error

        return fail

    monkeypatch.setattr(compiling, "compiled", broken)
    monkeypatch.setattr(compiling.shutil, "which", lambda _: "/usr/bin/g++")
    batches = made.Noise()
    assert compiling.try_step(a_run(CPU, size=48, train=batches)) == reason
    assert batches.asked == (48,)


def test_a_compiler_that_fails_stops_no_run(monkeypatch: Patch, capsys: Capture) -> None:
    def broken(*_: Any) -> Pace:
        raise RuntimeError("no triton here\nand more")

    monkeypatch.setattr(compiling, "measure", broken)
    assert not decide(GPU)
    assert capsys.readouterr().out == "compile: off, it does not work here (no triton here)\n"
    monkeypatch.setattr(compiling, "try_step", lambda *_: "no triton here")
    assert not decide(GPU, before="on")
    assert "this run began" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--compile does not work here \(no triton here\); leave it out"):
        decide(GPU, asked=True)


def test_asked_for_without_a_cpp_compiler_is_one_sentence(monkeypatch: Patch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        decide(CPU, asked=True)


def test_a_compiled_training_ends_like_an_uncompiled_one(tmp_path: Path, trained: Path, work: Patch) -> None:
    """The graph is traced, but run by torch's own kernels, because generating kernels would take minutes."""
    networks = []

    def traced(network: nn.Module) -> Any:
        networks.append(network)
        return torch.compile(network, backend="aot_eager", dynamic=False)

    for module in (train, compiling):
        work.setattr(module, "compiled", traced)
    made.command(train, "--data", trained / "csv" / "tiny", *FAST, "--compile")
    assert len(networks) == 2  # tried, and trained
    compiled, plain = (pd.read_csv(folder / HISTORY)["train_loss"] for folder in (tmp_path, trained))
    np.testing.assert_allclose(compiled, plain, rtol=1e-3)
    records = [read_about(folder / LAST).records for folder in (tmp_path, trained)]
    assert [record["compile"] for run in records for record in run] == ["on", "off"]
