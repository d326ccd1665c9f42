"""Whether ``torch.compile`` pays: its kernels are fused and faster, but making them takes minutes for a deep network."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from torch import nn

from lab.errors import UserError
from lab.forecast import Batches, Pace, measure
from lab.hardware import Hardware
from lab.recipe import Settings
from lab.words import duration

WORTH_TRYING = (
    1800.0  # seconds that a run must last: making the kernels of ResNet152 at three sizes takes a good part of it
)


def compiled(network: nn.Module) -> Any:
    """The network, its kernels made at the first step of each size and for that shape alone."""
    return torch.compile(network, dynamic=False)


def decide_compile(
    asked: bool | None,
    before: str,
    network: nn.Module,
    settings: Settings,
    hardware: Hardware,
    batches: Batches,
    valid: Batches,
    pace: Pace,
    done: int,
    processes: int,
) -> bool:
    """Whether to compile, printed with the reason: as ``asked``, as the run did ``before``, or as measured steps say.

    ``pace`` is that of the network as it is; ``done`` epochs of its run are over. Raises :class:`UserError` where it was asked
    for and does not work here.
    """
    use, reason = False, ""
    left = pace.run(settings, done)
    if asked is not None:
        use, reason = asked, "as asked"
    elif before:
        use, reason = before == "on", "as this run began"
    elif hardware.device.type != "cuda":
        reason = "worth a few percent on a processor (benchmarks/results/compile.md), after a long warm-up; --compile does it"
    elif processes > 1 or torch.are_deterministic_algorithms_enabled():
        reason = (
            "which way is faster is not measured where every process must choose alike, or each time; --compile does it"
        )
    elif left < WORTH_TRYING:
        reason = f"{duration(left)} of training would not pay back its warm-up"
    else:
        try:
            began = time.perf_counter()
            fast = measure(network, settings, hardware, batches, valid, compiled)
            spent, saved = time.perf_counter() - began, left - fast.run(settings, done)
        except Exception as error:  # compilers fail in ways of their own; the run does not need them
            reason = f"it does not work here ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        else:
            use = saved > spent  # the kernels are kept on disk, but a later size is made anew
            reason = (
                f"measured: {duration(saved)} saved after {duration(spent)} of warm-up"
                if saved > 0
                else "it is no faster"
            )
    if (
        use
        and hardware.device.type == "cpu"
        and not (shutil.which("g++") or shutil.which("clang++") or shutil.which("cl"))
    ):
        raise UserError(
            "--compile needs a C++ compiler on a processor, and there is none; install g++, or leave it out."
        )
    print(f"compile: {'on' if use else 'off'}, {reason}")
    return use
