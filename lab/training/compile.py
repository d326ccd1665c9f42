"""Whether ``torch.compile`` pays: its kernels are fused and faster, but making them takes minutes for a deep network; on a
processor they take the place of lab/cpu/winograd.py's gradients."""

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

# Seconds that a run must last: making the kernels of ResNet152 at three sizes takes a good part of it.
WORTH_TRYING = 1800.0
UNKNOWN = "what it is worth on such a device is not measured; --compile does it"
SLOW = "on a CPU the step is faster without it (benchmarks/results/compile.md); --compile turns it on"


def compiled(network: nn.Module) -> Any:
    """The network, its kernels made at the first step of each size and for that shape alone."""
    torch.compiler.reset()  # torch keeps eight versions of one piece of code, and all depths share theirs
    return torch.compile(network, dynamic=False)


def decide_compile(asked: bool | None, run: Run, pace: Pace) -> bool:
    """Whether to compile, printed with the reason: as ``asked``, as the run did before, or as measured steps say.

    ``pace`` is that of the network as it is. Before the first epoch it is tried. Raises :class:`UserError` where it was asked
    for and does not work here.
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
                raise UserError(f"--compile does not work here ({failed}); leave it out, or say --no-compile.")
            use, reason = False, f"it was on when this run began, but does not work here ({failed})"
    print(f"compile: {'on' if use else 'off'}, {reason}")
    return use


def measured_choice(run: Run, pace: Pace) -> tuple[bool, str]:
    """Whether compiling pays, by measured steps, with the reason."""
    hardware, done = run.hardware, run.state.epoch
    left = pace.run(run.settings, done)
    if hardware.device.type != "cuda":
        return False, SLOW if (hardware.device.type, hardware.precision) == ("cpu", "fp32") else UNKNOWN
    if run.ranks.count > 1 or torch.are_deterministic_algorithms_enabled():
        return False, "not measured where every process, or each run, must choose alike; --compile does it"
    if left < WORTH_TRYING:
        return False, f"{duration(left)} of training would not pay back its warm-up"
    try:
        began = time.perf_counter()
        fast = measure(run.network, run.settings, hardware, run.train, run.valid, compiled)
        spent, saved = time.perf_counter() - began, left - fast.run(run.settings, done)
    except Exception as error:  # compilers fail in ways of their own; the run does not need them
        return False, f"it does not work here ({first_line(error)})"
    if saved <= 0:
        return False, "it is no faster"
    # The kernels are kept on disk, but those of a later size are made anew.
    return saved > spent, f"measured: {duration(saved)} saved after {duration(spent)} of warm-up"


def try_step(run: Run) -> str:
    """Take a compiled step with a copy of the network: why that failed in one line, or nothing. The kernels are kept on disk for
    the run. Too little memory is no failure: the run itself then halves the images at once."""
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
    """What an error says, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
