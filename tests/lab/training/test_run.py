"""The number of threads of a training: noted with its step, kept by a resumed run, repeated by ``--like``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from lab.checkpoints.checkpoint import TrainingState, read_about, read_state, read_tensors, save_checkpoint
from lab.cpu.sgd import SGD
from lab.errors import UserError
from lab.hardware import Hardware
from lab.threads import Threads
from tests import made
from tests.made import BEST, LAST, Capture, Patch, Run

Use = Callable[..., list[int]]


class Planned(Threads):
    """Changes to the numbers of a plan after these steps of this process, in place of measurements."""

    def __init__(self, plan: dict[int, int], fixed: bool = False) -> None:
        super().__init__(2, fixed)
        self.plan, self.done = plan, 0

    def compare(self, work: Callable[[], object]) -> None:
        work()

    def after_step(self, work: Callable[[], object], images: int) -> None:
        if isinstance(self.kind, tuple) and self.kind[0] == "training" and self.due < math.inf and not self.fixed:
            self.done += 1
            self.use(self.plan.get(self.done, self.number))


@pytest.fixture
def use(work: Patch) -> Use:
    """Sets the plan of the trainings that follow; returns the number of threads of each step, which is filled by them."""
    seen: list[int] = []
    original = SGD.step

    def step(optimizer: SGD) -> None:
        if type(optimizer) is SGD and hardware[0].threads.kind is not None:
            seen.append(hardware[0].threads.number)
        original(optimizer)

    hardware: list[Hardware] = []
    work.setattr(SGD, "step", step)
    work.setattr(torch, "set_num_threads", lambda number: None)

    def plan(numbers: dict[int, int], fixed: bool = False) -> list[int]:
        seen.clear()
        hardware[:] = [Hardware(torch.device("cpu"), "fp32", Planned(numbers, fixed))]
        work.setattr(train, "choose_hardware", lambda *_: hardware[0])
        return seen

    return plan


def test_each_change_is_noted_with_its_step(tmp_path: Path, use: Use, run: Run) -> None:
    numbers = use({4: 1, 7: 2})
    run()
    assert numbers == [2, 2, 2, 2, 1, 1, 1, 2, 2]
    about = read_about(tmp_path / LAST)
    assert about.threads == [[0, 2], [4, 1], [7, 2]]
    assert about.device == "cpu (1 to 2 threads, changed 2 times)"
    described = json.loads((tmp_path / "report" / "tiny" / "run_resnet18.json").read_text())
    assert described["threads"] == about.threads


def test_a_resumed_run_keeps_the_number(tmp_path: Path, use: Use, run: Run, capsys: Capture) -> None:
    use({2: 1})
    with made.interrupted():
        run()
    numbers = use({5: 2})
    run()
    assert numbers == [1, 1, 1, 1, 1, 2]
    assert "threads: 1, as when the run was interrupted" in capsys.readouterr().out
    assert read_about(tmp_path / LAST).threads == [[0, 2], [2, 1], [8, 2]]


def test_a_run_resumed_with_fewer_cpus_says_so(
    tmp_path: Path, trained: Path, use: Use, run: Run, capsys: Capture
) -> None:
    use({})
    with made.interrupted():
        run()
    about, state = read_about(tmp_path / LAST), read_state(tmp_path / LAST)
    save_checkpoint(tmp_path / LAST, replace(about, threads=[[0, 64]]), read_tensors(tmp_path / LAST), state)
    numbers = use({})
    run()
    assert set(numbers) == {2}
    assert "resumes with changes that may alter the last digits: threads 64 → 2" in capsys.readouterr().out
    assert read_about(tmp_path / LAST).threads == [[0, 64], [3, 2]]


def test_a_number_that_is_fixed_replaces_the_saved_one(tmp_path: Path, use: Use, run: Run, capsys: Capture) -> None:
    use({2: 1})
    with made.interrupted():
        run()
    use({}, fixed=True)
    run()
    assert "resumes with changes that may alter the last digits: threads 1 → 2" in capsys.readouterr().out
    assert read_about(tmp_path / LAST).threads == [[0, 2], [2, 1], [3, 2]]


def test_a_repeated_run_has_the_same_numbers(
    tmp_path: Path, trained: Path, work: Patch, use: Use, run: Run, capsys: Capture
) -> None:
    use({4: 1, 7: 2})
    run()
    first = tmp_path.rename(tmp_path.with_name("first"))
    tmp_path.mkdir()
    work.chdir(tmp_path)
    numbers = use({1: 1, 2: 2, 3: 1})  # what measurements would choose now
    made.command(train, "--device", "cpu", "--data", trained / "csv" / "tiny", "--like", first / LAST)
    assert numbers == [2, 2, 2, 2, 1, 1, 1, 2, 2]
    output = capsys.readouterr().out
    assert "threads: 2, 1 from step 4, 2 from step 7, as in the repeated run" in output
    assert "nothing has changed, so the weights will be the same" in output
    made.assert_same_run(first, tmp_path)


def test_a_repeated_run_that_runs_out_of_memory_has_the_same_numbers_afterwards(
    tmp_path: Path, trained: Path, work: Patch, use: Use
) -> None:
    about = replace(read_about(trained / LAST), threads=[[0, 2], [4, 1], [7, 2]])
    save_checkpoint(tmp_path / "old.safetensors", about, {}, TrainingState())
    numbers, count, failing = use({}), train.Run.count, iter([True])

    def fail_once(*arguments: Any) -> None:
        if next(failing, False):
            raise made.CPU_MEMORY
        count(*arguments)

    work.setattr(train.Run, "count", fail_once)
    made.command(train, "--device", "cpu", "--data", trained / "csv" / "tiny", "--like", tmp_path / "old.safetensors")
    assert numbers[-9:] == [2, 2, 2, 2, 1, 1, 1, 2, 2]  # after the steps that are only measured


def test_a_repeated_run_that_began_on_a_gpu_has_the_first_number_before_it(
    tmp_path: Path, trained: Path, use: Use, capsys: Capture
) -> None:
    about = replace(read_about(trained / LAST), threads=[[5, 64]])
    save_checkpoint(tmp_path / "old.safetensors", about, {}, TrainingState())
    numbers = use({})
    made.command(train, "--device", "cpu", "--data", trained / "csv" / "tiny", "--like", tmp_path / "old.safetensors")
    assert numbers == [64] * 9
    assert "as in the repeated run; more than this machine's CPUs, so --threads is faster" in capsys.readouterr().out


def test_validation_has_the_threads_that_the_run_notes(tmp_path: Path, use: Use, run: Run, work: Patch) -> None:
    """They change after the last step of an epoch at the earliest, so that a repeated run validates with the same."""
    seen, predict = [], train.predict

    def note(network: Any, batches: Any, hardware: Hardware, *more: Any, **options: Any) -> Any:
        seen.append((hardware.threads.number, hardware.threads.fixed))
        return predict(network, batches, hardware, *more, **options)

    work.setattr(train, "predict", note)
    use({3: 1, 5: 2})
    run()
    assert seen == [
        (1, True),
        (2, True),
        (2, True),
        (2, False),
        (2, False),
    ]  # three epochs, and at the end without and with D4
    assert read_about(tmp_path / LAST).threads == [[0, 2], [3, 1], [5, 2]]


@pytest.mark.parametrize("threads", [[[0]], [[0, 0]], [[-1, 2]], [[0, 2, 4]], [0, 2], [["0", 2]]])
def test_damaged_threads_are_refused(tmp_path: Path, trained: Path, threads: Any) -> None:
    save_checkpoint(tmp_path / "best.safetensors", replace(read_about(trained / BEST), threads=threads), {})
    with pytest.raises(
        UserError, match=r"best.safetensors: the checkpoint's description is damaged .*threads has a wrong value"
    ):
        read_about(tmp_path / "best.safetensors")


def test_a_repeated_run_of_another_number_may_differ(
    tmp_path: Path, trained: Path, work: Patch, capsys: Capture
) -> None:
    about = replace(read_about(trained / LAST), threads=[[0, 64]])
    save_checkpoint(tmp_path / "old.safetensors", about, {}, TrainingState())
    made.command(train, "--device", "cpu", "--data", trained / "csv" / "tiny", "--like", tmp_path / "old.safetensors")
    number = torch.get_num_threads()
    assert f"the weights may differ, because this has changed: threads 64 → {number}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "present", "threads"), [("cpu (2 threads)", "cpu", [[0, 2]]), ("cuda (H100)", None, [])]
)
def test_checkpoints_of_earlier_versions(
    tmp_path: Path, trained: Path, device: str, present: str | None, threads: list[list[int]]
) -> None:
    """Their number of threads is part of the device."""
    about = read_about(trained / BEST)
    old = replace(about, threads=[], records=[about.records[0] | {"device": device}])
    save_checkpoint(tmp_path / "best.safetensors", old, {})
    read = read_about(tmp_path / "best.safetensors")
    assert read.records[0]["device"] == (present or device) and read.threads == threads and read.device == device
