"""lab.training.compile: the decision by every reason, and a compiled training that ends as one that is not."""

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
from tests.made import FAST, Noise, command, inside, make_data, settings, thin

CPU, GPU = Hardware(torch.device("cpu"), "fp32"), Hardware(torch.device("cuda"), "bf16")
HOUR = Pace(32, 64, train=(300.0, 1200.0), valid=(0.0, 0.0))  # three epochs of 20 minutes


def decide(
    hardware: Hardware, pace: Pace = HOUR, asked: bool | None = None, before: str = "", ranks: Any = ALONE
) -> bool:
    return decide_compile(asked, a_run(hardware, before, ranks), pace)


def a_run(hardware: Hardware, before: str = "", ranks: Any = ALONE, **values: Any) -> Any:
    """As much of a run as the decision looks at."""
    about = SimpleNamespace(records=[{"compile": before}])
    common = {"network": thin("resnet18"), "settings": settings(), "train": None, "valid": None}
    return SimpleNamespace(**common | values, hardware=hardware, ranks=ranks, about=about, state=TrainingState())


class Two(Ranks):
    """Two ranks, of which compiling fails on the other."""

    def any(self, here: bool) -> bool:
        return True


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a compiled step take this share of the time, after a warm-up of so many seconds."""

    def of(share: float, warmup: float) -> None:
        clock = iter([0.0, warmup])
        low, high = HOUR.train
        fast = Pace(32, 64, (share * low, share * high), (0.0, 0.0))
        monkeypatch.setattr(compiling, "measure", lambda *_: fast)
        monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))

    return of


@pytest.mark.parametrize(("share", "warmup", "use"), [(0.8, 600, True), (0.8, 900, False), (1.1, 1, False)])
def test_on_a_gpu_measured_steps_decide(
    measured: Any, share: float, warmup: float, use: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(share, warmup)
    assert decide(GPU) is use
    printed = capsys.readouterr().out
    assert printed.startswith(f"compile: {'on' if use else 'off'}, ")
    if share < 1:  # of an hour a fifth is saved
        assert "12 min saved after 10 min" in printed or "12 min saved after 15 min" in printed


def test_nothing_is_tried_where_it_cannot_pay_or_was_decided_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Pace:
        raise AssertionError("measured")

    monkeypatch.setattr(compiling, "measure", forbidden)
    short = Pace(32, 64, (10.0, 40.0), (0.0, 0.0))
    assert (
        not decide(CPU)
        and not decide(GPU, short)
        and not decide(GPU, ranks=Ranks(0, 2))
        and not decide(GPU, before="off")
    )


def test_what_was_asked_for_or_decided_before_is_done_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def works(*given: Any) -> str:
        tried.append(given[-1])
        return ""

    monkeypatch.setattr(compiling, "try_step", works)
    assert decide(GPU, before="on") and decide(GPU, asked=True, before="off") and len(tried) == 2
    assert not decide(GPU, asked=False, before="on") and len(tried) == 2
    assert not decide(GPU, before="on", ranks=Two(0, 2))


@pytest.mark.parametrize(("error", "said"), [(RuntimeError("no triton\nhere"), "no triton"), (MemoryError(), "")])
def test_an_attempt_says_why_it_fails(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for too little memory, with which the run itself deals."""

    def broken(_: nn.Module) -> Any:
        def fail(_: torch.Tensor) -> None:
            raise error

        return fail

    monkeypatch.setattr(compiling, "compiled", broken)
    monkeypatch.setattr(compiling.shutil, "which", lambda _: "/usr/bin/g++")
    batches = Noise()
    assert compiling.try_step(a_run(CPU, settings=settings(size=48), train=batches)) == said
    assert batches.asked == (48,)


def test_a_compiler_that_fails_stops_no_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_asked_for_without_a_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        decide(CPU, asked=True)


def test_a_compiled_training_ends_as_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the graph traced, but run by torch's own kernels: making new ones would take minutes."""
    seen = []

    def traced(network: nn.Module) -> Any:
        seen.append(network)
        return torch.compile(network, backend="aot_eager", dynamic=False)

    for module in (train, compiling):
        monkeypatch.setattr(module, "compiled", traced)
    make_data(tmp_path / "csv" / "tiny")
    with inside(tmp_path, figures=False):
        for name, option in (("plain", "--no-compile"), ("traced", "--compile")):
            command(train, "--data", "csv/tiny", *FAST, "--weights", name, "--report", name, option)
    assert len(seen) == 2  # tried, and trained
    plain, compiled = (pd.read_csv(tmp_path / name / "tiny" / "history_resnet18.csv") for name in ("plain", "traced"))
    np.testing.assert_allclose(compiled["train_loss"], plain["train_loss"], rtol=1e-3)
    kept = [
        read_about(tmp_path / name / "tiny" / "resnet18" / "last.safetensors").records for name in ("plain", "traced")
    ]
    assert [record["compile"] for records in kept for record in records] == ["off", "on"]
