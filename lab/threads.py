"""The number of CPU threads of torch's operations: the CPUs that the process may use, or fewer while other programs use them.

Every operation is divided among the threads and waits for the slowest of them. A training step has so many
operations that one busy program beside it makes two threads two to three times slower, and slower than one thread
(``benchmarks/busy.py``). The number decides the order of sums and thereby the last digits of a result.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lab.terminal import say

IMAGES = 4  # for each possible thread, in the forward passes that compare numbers of threads
WINDOW = 3.0  # seconds of steps whose median counts
SLOW = 1.5  # a median of this many times the fastest step leads to a comparison
FEWER, MORE = 0.85, 0.95  # fewer or more threads replace the present number if they need at most this share of its time
HOPELESS = 3.0  # with so many times the best time, still fewer threads are not tried
PAUSE = 10.0  # least seconds between two comparisons
SHARE = 0.02  # largest share of the time that comparisons may take


class Threads:
    """The number of threads: fixed, or changed when measurements show that another number is faster.

    All numbers up to ``limit`` are possible. A comparison times forward passes of ``images`` images, which change nothing in a
    run. There is one for each kind of steps, one when steps have become slow, and, while fewer threads than possible are in use,
    one from time to time, because the other program may have ended.
    """

    def __init__(self, limit: int, fixed: bool = True, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit, self.fixed, self.clock = limit, fixed, clock
        self.number, self.images = limit, IMAGES * limit
        self.due = -math.inf  # earliest time of the next comparison
        # Seconds of a step, by kind, images and number of threads.
        self.fastest: dict[tuple[object, int, int], float] = {}
        self.compared: set[object] = set()  # the kinds of steps for which there was a comparison
        # Of the latest steps: seconds, and how many times those of the fastest.
        self.steps: list[tuple[float, float]] = []
        self.begin(None)

    def begin(self, kind: object) -> None:
        """Begin a series of steps of one ``kind``: steps of the same kind with as many images take the same time."""
        self.kind, self.last = kind, self.clock()

    def use(self, number: int) -> None:
        """Set the number of threads."""
        torch.set_num_threads(number)
        self.number = number

    def keep(self, number: int) -> None:
        """Set the number of threads, and make no comparison at once."""
        self.use(number)
        self.due = self.clock() + PAUSE

    def after_step(self, work: Callable[[], object], images: int) -> None:
        """Note the end of a step of so many images, and make a comparison if one is due. ``work`` is the forward pass to time."""
        if self.fixed:
            return
        now, key, wanted = self.clock(), (self.kind, images, self.number), self.kind not in self.compared
        seconds, self.last = now - self.last, now
        self.fastest[key] = min(self.fastest.get(key, math.inf), seconds)
        self.steps.append((seconds, seconds / self.fastest[key]))
        if len(self.steps) > 1 and sum(seconds for seconds, _ in self.steps) >= WINDOW:
            slow = statistics.median(ratio for _, ratio in self.steps) > SLOW
            wanted |= slow or self.number < self.limit
            self.steps.clear()
        if wanted and now >= self.due:
            self.compare(work)

    def compare(self, work: Callable[[], object]) -> None:
        """Time ``work`` with each number of threads, and change to the fastest if it gains enough. Prints a change."""
        if self.fixed:
            return
        began, before, seconds = self.clock(), self.number, {}
        for number in [before, *(other for other in self.candidates() if other != before)]:
            seconds[number] = self.timed(work, number)
            if number < before and seconds[number] > HOPELESS * min(seconds.values()):
                break
        best = min(seconds, key=seconds.__getitem__)
        limit = FEWER if best < before else MORE
        if seconds[best] <= limit * seconds[before]:  # measured again, because a single time may be disturbed
            seconds = {number: self.timed(work, number) + self.timed(work, number) for number in (before, best)}
        chosen = best if seconds[best] <= limit * seconds[before] else before
        self.use(chosen)
        self.compared.add(self.kind)
        self.steps.clear()
        self.last = self.clock()
        self.due = self.last + max(PAUSE, (self.last - began) / SHARE)
        if chosen != before:
            reason = "probably because other programs use the CPU" if chosen < before else "the CPU seems free again"
            gain = f"{seconds[before] / seconds[chosen]:.2f} times as fast"
            say(f"threads: {before} → {chosen}, measured {gain}, {reason}")

    def timed(self, work: Callable[[], object], number: int) -> float:
        """Seconds of the second call of ``work`` with ``number`` threads; in the first call libraries choose their kernels."""
        self.use(number)
        work()
        began = self.clock()
        work()
        return self.clock() - began

    def candidates(self) -> list[int]:
        """The numbers to compare, from the most to one: all threads, one fewer, and halves."""
        halves = {self.limit >> shift for shift in range(self.limit.bit_length())}
        return sorted(({self.limit - 1} | halves) - {0}, reverse=True)


def described(changes: list[list[int]]) -> str:
    """Pairs of an optimizer step and the number of threads from that step on, as text, such as ``2, 1 from step 120``."""
    return ", ".join(f"{number} from step {step:,}" if step else f"{number}" for step, number in changes)


def choose_threads(device: torch.device, deterministic: bool) -> Threads:
    """Choose the number of threads, print it with the reason, and set it."""
    threads = Threads(torch.get_num_threads())  # as OMP_NUM_THREADS or the CPU affinity says
    if device.type != "cpu":
        return threads
    if "OMP_NUM_THREADS" in os.environ:
        reason = "as OMP_NUM_THREADS says, which --threads and torchrun set"
    else:
        threads = Threads(min(threads.limit, available_cpus()))
        threads.fixed = deterministic or threads.limit == 1
        reason = "as many as torch chooses, at most one for each CPU that this process may use"
        if not threads.fixed:
            reason += "; fewer beside other programs, if measured faster"
        elif deterministic:
            reason += "; --deterministic keeps the number"
    threads.use(threads.limit)
    print(f"threads: {threads.limit}, {reason}")
    return threads


def decoding_threads() -> int:
    """The number of threads that decode images: as OMP_NUM_THREADS says, else the CPUs that this process may use. Decoding
    threads do not wait for each other. Under torchrun, which sets the variable itself, one process decodes for all."""
    if "OMP_NUM_THREADS" in os.environ and "LOCAL_RANK" not in os.environ:
        return torch.get_num_threads()
    return available_cpus()


def available_cpus() -> int:
    """The number of CPUs that this process may use: by its affinity, and by the quota of its control groups."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(count, cpu_quota())))


def cpu_quota(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs that Linux control groups grant this process (``cpu.max`` of version 2, ``cpu.cfs_quota_us`` of version 1; kernel
    documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc); infinity without a limit."""
    quota = math.inf
    try:
        lines = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return quota
    for _, controllers, group in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount if not controllers else mount / "cpu"
        folder = root / group.lstrip("/")
        # The groups above limit this one. In a container the own group's folder may be missing; its files are then at the root.
        for place in [folder, *folder.parents[: len(folder.parts) - len(root.parts)]]:
            quota = min(quota, quota_of(place))
    return quota


def quota_of(group: Path) -> float:
    """The CPUs that one control group grants; infinity without a limit or if nothing can be read."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf
