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

from lab.distributed import Ranks
from lab.errors import UserError, out_of_memory
from lab.hardware import Hardware
from lab.text import duration
from lab.training.forecast import Batches, Pace, measure
from lab.training.recipe import Settings, size_at

# Seconds that a run must last: making the kernels of ResNet152 at three sizes takes a good part of it.
WORTH_TRYING = 1800.0
UNKNOWN = "what it is worth on such a device is not measured; --compile does it"
SLOW = "on a processor the step is faster without (benchmarks/results/compile.md); --compile does it"


def compiled(network: nn.Module) -> Any:
    """The network, its kernels made at the first step of each size and for that shape alone."""
    torch.compiler.reset()  # torch keeps eight versions of one piece of code, and all depths share theirs
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
    ranks: Ranks,
) -> bool:
    """Whether to compile, printed with the reason: as ``asked``, as the run did ``before``, or as measured steps say.

    ``pace`` is that of the network as it is; ``done`` epochs of its run are over. Before the first epoch it is tried. Raises
    :class:`UserError` where it was asked for and does not work here.
    """
    use, reason = False, ""
    left = pace.run(settings, done)
    if asked is not None:
        use, reason = asked, "as asked"
    elif before:
        use, reason = before == "on", "as this run began"
    elif hardware.device.type != "cuda":
        reason = SLOW if (hardware.device.type, hardware.precision) == ("cpu", "fp32") else UNKNOWN
    elif ranks.count > 1 or torch.are_deterministic_algorithms_enabled():
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
            reason = f"it does not work here ({first_line(error)})"
        else:
            use = saved > spent  # the kernels are kept on disk, but a later size is made anew
            reason = (
                f"measured: {duration(saved)} saved after {duration(spent)} of warm-up"
                if saved > 0
                else "it is no faster"
            )
    if use and (asked or before):
        failed = attempt(network, settings, hardware, batches, done)
        if ranks.any(bool(failed)):
            failed = failed or "in another process"
            if asked:
                raise UserError(f"--compile does not work here ({failed}); leave it out, or say --no-compile.")
            use, reason = False, f"as this run began it does not work here any more ({failed})"
    print(f"compile: {'on' if use else 'off'}, {reason}")
    return use


def attempt(network: nn.Module, settings: Settings, hardware: Hardware, batches: Batches, done: int) -> str:
    """Take a compiled step with a copy of the network; why that failed in one line, or nothing. The kernels are kept on disk for
    the run. Too little memory is no failure: the run itself goes on with fewer images at once."""
    if hardware.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "on a processor it needs a C++ compiler such as g++"
    tried, size = compiled(copy.deepcopy(network).train()), batches.size
    batches.size = size_at(done, settings)
    try:
        images, labels, _ = next(iter(batches))
        with hardware.autocast():
            loss = functional.cross_entropy(tried(images), labels)
        loss.backward()
    except Exception as error:
        return "" if out_of_memory(error) else first_line(error)
    finally:
        batches.size = size
    return ""


def first_line(error: Exception) -> str:
    """What an error says, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
