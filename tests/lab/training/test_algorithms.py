"""lab.training.algorithms: when the algorithms of a run are measured, and when they are those of an earlier one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.checkpoints.checkpoint import About, TrainingState, read_about
from lab.cpu import fastest as measuring
from lab.cpu.convolutions import PRODUCT, PYTORCH, Algorithms, Convolution2d, replace_convolutions
from lab.cpu.fastest import measured_table
from lab.distributed import ALONE
from lab.hardware import Hardware
from lab.training import algorithms
from lab.training.algorithms import choose_algorithms
from lab.training.ema import EMA
from lab.training.forecast import Pace
from tests import made
from tests.made import BEST, Capture, Patch, Run

CPU = Hardware(torch.device("cpu"), "fp32")
HOUR, MINUTE = (Pace(32, 32, train=(seconds, seconds), valid=(0.0, 0.0)) for seconds in (1200.0, 20.0))
TABLE = {"fp32 3x3/1 8-8 8x8": "product product product"}
OLD = {"fp32 3x3/1 8-8 8x8": "winograd winograd winograd"}


def a_run(step: int = 0, processors: tuple[str, ...] = ("this",), table: dict[str, str] | None = None) -> Any:
    """A run of three epochs with a record of each of these processors, before its first or at a later step."""
    network = made.thin("resnet18")
    replace_convolutions(network, table or {})
    run_settings = made.settings(size=32, epochs=3)
    about = made.about(
        settings=dataclasses.asdict(run_settings),
        records=[{"processor": name} for name in processors],
        algorithms=table or {},
    )
    values = {"network": network, "ema": EMA(network, 0.9), "about": about, "settings": run_settings}
    return type(
        "Run", (), values | {"state": TrainingState(step=step), "hardware": CPU, "ranks": ALONE, "train": made.Noise()}
    )()


def tables(run: Any) -> list[dict[str, str]]:
    """The tables of the network and of its average."""
    modules = [*run.network.modules(), *run.ema.network.modules()]
    return [module.table for module in modules if isinstance(module, Convolution2d)]


@pytest.fixture(autouse=True)
def measured(monkeypatch: Patch) -> list[Any]:
    """The calls that measure, replaced by one that returns ``TABLE``."""
    calls: list[Any] = []
    monkeypatch.setattr(algorithms, "measured_table", lambda *args: calls.append(args) or TABLE)  # type: ignore[func-returns-value]
    return calls


def test_a_long_run_measures_its_sizes(measured: list[Any], tmp_path: Path) -> None:
    run = a_run()
    assert choose_algorithms(run, HOUR, None, tmp_path / "file")
    assert measured == [(run.network, [32], run.train.batch_size, CPU, tmp_path / "file")]
    assert run.about.algorithms == TABLE and tables(run) and all(table == TABLE for table in tables(run))


def test_short_and_deterministic_runs_have_fixed_algorithms(measured: list[Any], capsys: Capture) -> None:
    assert not choose_algorithms(a_run(), MINUTE, None, Path())
    torch.use_deterministic_algorithms(True)
    try:
        assert not choose_algorithms(a_run(), HOUR, None, Path())
    finally:
        torch.use_deterministic_algorithms(False)
    assert not measured
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(";")[0] for line in lines] == ["convolutions: fixed algorithms"] * 2


@pytest.mark.parametrize("table", [{}, OLD])
def test_a_resumed_run_keeps_its_algorithms(table: dict[str, str], measured: list[Any]) -> None:
    """Also fixed ones, and of a run that is shorter now. On another processor they are measured anew."""
    run = a_run(step=1, table=table)
    assert not choose_algorithms(run, HOUR, None, Path()) and not measured
    assert run.about.algorithms == table and all(found == table for found in tables(run))
    assert choose_algorithms(a_run(1, ("other", "this"), table), HOUR, None, Path()) and measured


@pytest.mark.parametrize("table", [{}, OLD])
def test_a_repeated_run_has_those_of_the_first(table: dict[str, str], measured: list[Any]) -> None:
    """If it has the same settings and runs on the same processor."""
    like: About = a_run(table=table).about
    run = a_run()
    assert choose_algorithms(run, HOUR, like, Path()) is bool(table) and not measured
    assert run.about.algorithms == table and all(found == table for found in tables(run))
    for other in (
        dataclasses.replace(like, settings=like.settings | {"size": 64}),
        dataclasses.replace(like, records=[{"processor": "other"}]),
    ):
        assert choose_algorithms(a_run(), HOUR, other, Path())
    assert len(measured) == 2


def test_networks_without_such_convolutions_and_gpus_print_nothing(measured: list[Any], capsys: Capture) -> None:
    run, on_gpu = a_run(), a_run()
    run.network = torch.nn.Linear(1, 1)
    on_gpu.hardware = Hardware(torch.device("cuda"), "bf16")
    assert not choose_algorithms(run, HOUR, None, Path()) and not choose_algorithms(on_gpu, HOUR, None, Path())
    assert not measured and not capsys.readouterr().out


def test_measured_algorithms_are_resumed_and_repeated(
    tmp_path: Path, run: Run, monkeypatch: Patch, capsys: Capture
) -> None:
    """A run that is interrupted in its first epoch, and one that repeats it elsewhere, have the same weights."""
    monkeypatch.setattr(algorithms, "WORTH_MEASURING", 0.0)
    monkeypatch.setattr(algorithms, "measured_table", measured_table)
    monkeypatch.setattr(measuring, "measure", lambda *_: Algorithms(PRODUCT, PYTORCH, PRODUCT))
    with made.interrupted():
        run()
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("measured again"))
    run()
    about = read_about(tmp_path / BEST)
    assert set(about.algorithms.values()) == {"product pytorch product"}
    assert json.loads((tmp_path / "report/tiny/run_resnet18.json").read_text())["algorithms"] == about.algorithms
    assert "convolutions: the algorithms of this run so far" in capsys.readouterr().out
    (tmp_path / "repeated").mkdir()
    monkeypatch.chdir(tmp_path / "repeated")
    run("--like", tmp_path / "weights/tiny/resnet18")
    assert "convolutions: the algorithms of the repeated run" in capsys.readouterr().out
    made.assert_same_run(tmp_path, tmp_path / "repeated")


def test_without_them_the_weights_would_differ(tmp_path: Path, trained: Path, run: Run, monkeypatch: Patch) -> None:
    """So the test before this one would fail if a resumed run had fixed algorithms."""
    monkeypatch.setattr(algorithms, "WORTH_MEASURING", 0.0)
    monkeypatch.setattr(algorithms, "measured_table", measured_table)
    monkeypatch.setattr(measuring, "measure", lambda *_: Algorithms(PRODUCT, PRODUCT, PRODUCT))
    run()
    with pytest.raises(AssertionError):
        made.assert_same_run(trained, tmp_path)
