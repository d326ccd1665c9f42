"""The number of threads follows what a simulated machine can do, and obeys the options, the environment and the system."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab import threads as module
from lab.options import parse
from lab.threads import (
    FEWER,
    PAUSE,
    SHARE,
    Threads,
    available_cpus,
    choose_threads,
    cpu_quota,
    decoding_threads,
    described,
)
from tests.made import Capture, Patch
from train import arguments

CPU = torch.device("cpu")


class Machine:
    """A simulated machine. Each of the ``busy`` programs takes one of its ``cpus``. A thread that shares a CPU needs eight times
    as long, and all other threads wait for it."""

    def __init__(self, cpus: int) -> None:
        self.cpus, self.busy, self.now = cpus, 0, 0.0
        self.spent = 0.0  # in comparisons
        self.steps = 0
        self.threads = Threads(cpus, fixed=False, clock=lambda: self.now)

    def cost(self, number: int, work: float) -> float:
        """Seconds that ``number`` threads need for what takes one undisturbed thread ``work`` seconds."""
        return work / number * (8 if number > max(1, self.cpus - self.busy) else 1)

    def compare(self) -> None:
        seconds = self.cost(self.threads.number, 0.05)
        self.now += seconds
        self.spent += seconds

    def run(self, seconds: float) -> None:
        """Train for at least so long; a step takes one thread half a second."""
        end = self.now + seconds
        self.threads.begin("training")
        while self.now < end:
            self.now += self.cost(self.threads.number, 0.5)
            self.steps += 1
            self.threads.after_step(self.compare, 32)


@pytest.fixture(autouse=True)
def _keep_torch(monkeypatch: Patch) -> None:
    """The number of threads of the tests themselves does not change."""
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


@pytest.fixture
def free(monkeypatch: Patch) -> None:
    """No variable fixes the number; torch would use four threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(module, "available_cpus", lambda: 4)


# ---- following the machine


@pytest.mark.parametrize("cpus", [2, 3, 4, 16])
def test_at_rest_all_threads_stay_after_one_comparison(cpus: int, capsys: Capture) -> None:
    machine = Machine(cpus)
    for _ in range(10):
        machine.run(100)
    assert machine.threads.number == cpus and capsys.readouterr().out == ""
    assert machine.spent < 1


@pytest.mark.parametrize(
    ("cpus", "busy", "number"), [(2, 1, 1), (2, 2, 1), (4, 1, 3), (4, 2, 2), (16, 1, 15), (16, 12, 4)]
)
def test_a_program_that_comes_and_goes(cpus: int, busy: int, number: int, capsys: Capture) -> None:
    """The best number of all compared ones: 16 threads become 15, 8, 4, 2 or 1."""
    machine = Machine(cpus)
    machine.run(60)
    machine.busy = busy
    machine.run(15)
    assert machine.threads.number == number
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"threads: {cpus} → {number}, measured ")
    assert line.endswith(" times as fast, probably because other programs use the CPU")
    machine.run(600)
    assert machine.threads.number == number and capsys.readouterr().out == ""
    machine.busy = 0
    machine.run(60)
    assert machine.threads.number == cpus
    assert f"threads: {number} → {cpus}, measured " in capsys.readouterr().out.splitlines()[-1]


def test_a_program_that_was_there_before_is_noticed_at_the_first_step() -> None:
    machine = Machine(2)
    machine.busy = 1
    machine.run(0.1)
    assert machine.threads.number == 1


@pytest.mark.parametrize("seconds", [1, 2])
def test_a_program_is_noticed_in_epochs_shorter_than_the_window(seconds: float) -> None:
    machine = Machine(2)
    for _ in range(20):
        machine.run(seconds)
    machine.busy = 1
    for _ in range(20):
        machine.run(seconds)
    assert machine.threads.number == 1


def test_pauses_and_smaller_batches_are_no_slow_steps() -> None:
    """On the page an hour may pass between two images, and the last batch of a list is smaller."""
    machine = Machine(2)
    machine.run(20)
    spent = machine.spent
    for _ in range(20):
        machine.now += 3600
        machine.run(2)
        machine.now += 0.001
        machine.threads.after_step(machine.compare, 3)
        machine.run(2)
    assert machine.spent == spent


@given(st.sampled_from([2, 3, 4, 8]), st.lists(st.tuples(st.integers(0, 9), st.floats(1, 200)), min_size=1, max_size=8))
def test_whatever_comes_comparisons_are_rare_and_the_number_possible(cpus: int, load: list[tuple[int, float]]) -> None:
    machine, changes = Machine(cpus), 0
    for busy, seconds in load:
        machine.busy, before = busy, machine.threads.number
        machine.run(seconds)
        assert 1 <= machine.threads.number <= cpus
        changes += machine.threads.number != before
    most = 6 * cpus * machine.cost(1, 0.05) * 8  # of one comparison, under the heaviest load
    assert machine.spent <= SHARE * machine.now + 2 * most
    assert changes <= 1 + machine.now / PAUSE


@given(st.integers(1, 3))
def test_beside_a_constant_load_nearly_all_time_is_spent_as_one_thread_would(busy: int) -> None:
    machine = Machine(2)
    machine.busy = busy
    machine.run(300)
    alone = machine.now / machine.cost(1, 0.5)
    assert machine.steps >= 0.9 * alone


def test_a_gain_that_is_too_small_changes_nothing() -> None:
    clock, seconds = [0.0], {2: 1.0, 1: FEWER + 0.01}
    threads = Threads(2, fixed=False, clock=lambda: clock[0])

    def work() -> None:
        clock[0] += seconds[threads.number]

    threads.compare(work)
    assert threads.number == 2
    seconds[1] = FEWER - 0.01
    threads.compare(work)
    assert threads.number == 1


def test_a_single_slow_measurement_changes_nothing() -> None:
    """The first pass of two threads that is timed is disturbed; the repetition is not."""
    clock, calls = [0.0], 0
    threads = Threads(2, fixed=False, clock=lambda: clock[0])

    def work() -> None:
        nonlocal calls
        calls += 1
        clock[0] += 9.0 if calls == 2 else 1.0 / threads.number

    threads.compare(work)
    assert threads.number == 2 and calls > 4


def test_a_fixed_number_is_never_compared() -> None:
    machine = Machine(2)
    machine.threads.fixed, machine.busy = True, 1
    machine.run(100)
    assert machine.threads.number == 2 and machine.spent == 0


@pytest.mark.parametrize(("kept", "busy", "number"), [(1, 0, 2), (2, 1, 1)])
def test_a_kept_number_is_compared_later(kept: int, busy: int, number: int) -> None:
    """Also if all steps since then were slow."""
    machine = Machine(2)
    machine.busy = busy
    machine.threads.keep(kept)
    machine.run(PAUSE - 2)
    assert machine.threads.number == kept and machine.spent == 0
    machine.run(PAUSE)
    assert machine.threads.number == number


def test_changes_as_text() -> None:
    assert described([[0, 2]]) == "2"
    assert described([[0, 2], [1200, 1], [2400, 2]]) == "2, 1 from step 1,200, 2 from step 2,400"


# ---- options, environment, system


def test_the_number_and_its_reason_are_printed(free: None, monkeypatch: Patch, capsys: Capture) -> None:
    assert not choose_threads(CPU, deterministic=False).fixed
    assert choose_threads(CPU, deterministic=True).fixed
    monkeypatch.setattr(module, "available_cpus", lambda: 1)  # of a machine with more CPUs
    limited = choose_threads(CPU, deterministic=False)
    assert limited.fixed and limited.number == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    asked = choose_threads(CPU, deterministic=False)
    assert asked.fixed and asked.number == 4
    each = "as many as torch chooses, at most one for each CPU that this process may use"
    assert capsys.readouterr().out.splitlines() == [
        f"threads: 4, {each}; fewer beside other programs, if measured faster",
        f"threads: 4, {each}; --deterministic keeps the number",
        f"threads: 1, {each}",
        "threads: 4, as OMP_NUM_THREADS says, which --threads and torchrun set",
    ]
    assert choose_threads(torch.device("cuda"), deterministic=False).fixed and capsys.readouterr().out == ""


def test_the_option_sets_the_variable_that_torch_reads(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # restored at the end
    monkeypatch.setattr("sys.argv", ["train.py", "--threads", "3"])
    monkeypatch.setattr("lab.options.prepare_streams", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    parse(arguments, "__main__")
    assert os.environ["OMP_NUM_THREADS"] == "3"
    for wrong in ("0", "-1", "two", "1.5"):
        with pytest.raises(SystemExit):
            arguments().parse_args(["--threads", wrong])
        assert f"--threads: must be a whole number above 0, not {wrong}" in capsys.readouterr().err


def test_images_are_decoded_by_as_many_threads(free: None, monkeypatch: Patch) -> None:
    assert decoding_threads() == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert decoding_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert decoding_threads() == 2
    monkeypatch.setenv("LOCAL_RANK", "0")  # torchrun sets both
    assert decoding_threads() == 4


def test_cpus_are_limited_by_affinity_and_quota(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 9, 11, 40}, raising=False)
    for quota, count in ((math.inf, 4), (64, 4), (2.5, 2), (0.5, 1)):
        monkeypatch.setattr(module, "cpu_quota", lambda quota=quota: quota)
        assert available_cpus() == count


V1 = "5:devices:/a\n2:cpu,cpuacct:/a\n0::/"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "cpu.max": "900000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/../elsewhere", {"cpu.max": "200000 100000"}, 2),  # of a container, whose own group is not visible
        ("0::/a", {"a/cpu.max": "max 100000"}, math.inf),
        ("0::/a", {"a/cpu.max": "odd"}, math.inf),
        ("0::/a", {}, math.inf),
        (V1, {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, math.inf),
        (V1, {"devices/a/cpu.cfs_quota_us": "100", "devices/a/cpu.cfs_period_us": "100"}, math.inf),
        (None, {}, math.inf),  # no Linux
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, groups: str | None, files: dict[str, str], quota: float) -> None:
    proc = tmp_path / "cgroup"
    if groups is not None:
        proc.write_text(f"{groups}\n")
    for name, text in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(f"{text}\n")
    assert cpu_quota(proc, tmp_path / "mount") == quota
