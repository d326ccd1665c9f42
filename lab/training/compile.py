"""Decides whether ``torch.compile`` pays. Its fused kernels are faster, but compiling a deep network takes minutes. On a CPU they
replace the algorithms of lab/cpu/."""

from __future__ import annotations

import copy
import shutil
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lab.errors import UserError, out_of_memory
from lab.text import duration
from lab.training.forecast import Pace, measure
from lab.training.recipe import size_at
from lab.training.run import Run

WORTH_TRYING = 1800.0  # seconds of training left; compiling ResNet152 at three sizes takes a good part of them
UNKNOWN = "its effect on such a device is not measured; --compile turns it on"
SLOW = "on a CPU the step is faster without it (benchmarks/results/compile.md); --compile turns it on"


def compiled(network: nn.Module) -> Any:
    """The network, compiled at the first step of each input size for that size only."""
    torch.compiler.reset()  # torch keeps at most eight versions of a function, and the depths share functions
    return torch.compile(network, dynamic=False)


def decide_compile(asked: bool | None, run: Run, pace: Pace) -> bool:
    """Whether to compile: as ``asked``, as the run did before, or by measured steps. Prints the decision and the reason.

    ``pace`` is the pace of the network without compilation. Compilation is tried before the first epoch. Raises
    :class:`UserError` if it was asked for and does not work here.
    """
    before = run.about.records[-1].get("compile", "")
    if asked is not None:
        use, reason = asked, "as asked"
    elif before:
        use, reason = before == "on", "as when this run began"
    else:
        use, reason = measured_choice(run, pace)
    if use and (asked or before):
        failed = try_step(run)
        if run.ranks.any(bool(failed)):
            failed = failed or "in another process"
            if asked:
                raise UserError(f"--compile does not work here ({failed}); leave it out, or give --no-compile.")
            use, reason = False, f"it was on when this run began, but does not work here ({failed})"
    print(f"compile: {'on' if use else 'off'}, {reason}")
    return use


def measured_choice(run: Run, pace: Pace) -> tuple[bool, str]:
    """Whether compiling pays, by measured steps, and the reason."""
    hardware, done = run.hardware, run.state.epoch
    left = pace.run(run.settings, done)
    if hardware.device.type != "cuda":
        return False, SLOW if hardware.device.type == "cpu" else UNKNOWN
    if run.ranks.count > 1 or torch.are_deterministic_algorithms_enabled():
        return False, "not measured with several processes or --deterministic; --compile turns it on"
    if left < WORTH_TRYING:
        return False, f"{duration(left)} of training would not pay back its warm-up"
    try:
        began = time.perf_counter()
        fast = measure(run.network, run.settings, hardware, run.train, run.valid, compiled)
        spent, saved = time.perf_counter() - began, left - fast.run(run.settings, done)
    except Exception as error:  # a compiler may raise any error; the run does not need it
        return False, f"it does not work here ({first_line(error)})"
    if saved <= 0:
        return False, "it is no faster"
    # Compiled kernels are cached on disk, but not those of a later size.
    return saved > spent, f"measured: {duration(saved)} saved after {duration(spent)} of warm-up"


def try_step(run: Run) -> str:
    """Run a compiled step on a copy of the network. Returns the reason of a failure in one line, or an empty string. The compiled
    kernels are cached on disk for the run. Running out of memory is no failure, because the run itself then splits the batch."""
    if run.hardware.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "on the CPU it needs a C++ compiler such as g++"
    network, epoch = compiled(copy.deepcopy(run.network).train()), run.state.epoch
    try:
        images, labels, _ = next(iter(run.train.epoch(0, size_at(epoch, run.settings))))
        with run.hardware.autocast():
            loss = functional.cross_entropy(network(images), labels)
        loss.backward()
    except Exception as error:
        return "" if out_of_memory(error) else first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
