"""Chooses device, precision and threads of a command, and prints each choice with the reason."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from lab.errors import UserError
from lab.threads import Threads, choose_threads


@dataclass(frozen=True)
class Hardware:
    """A device, the precision of its matrix products (``fp32``, ``bf16`` or ``fp16``), and the threads of the CPU."""

    device: torch.device
    precision: str
    threads: Threads = field(default_factory=lambda: Threads(torch.get_num_threads()), compare=False)

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in channels-last memory format, in which convolutions are fastest."""
        return network.to(self.device).to(memory_format=torch.channels_last)

    def describe(self) -> str:
        """The device, with the name of the GPU."""
        if self.device.type == "cuda":
            return f"{self.device.type} ({torch.cuda.get_device_name(self.device)})"
        return str(self.device)

    def synchronise(self) -> None:
        """Wait until a GPU has finished its queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a forward pass runs."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)


def choose_hardware(device: str = "auto", precision: str = "auto", deterministic: bool = False) -> Hardware:
    """Choose device and precision, print both with the reasons, and set the device up. With ``deterministic`` the same
    start gives the same bits every time. Raises :class:`UserError` if the device or the precision is not available."""
    if deterministic:
        # cuBLAS reads this at its start; without a fixed workspace the order of its sums may vary between runs.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    name, reason = device, "as asked"
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        reason = f"torch sees {'a' if name == 'cuda' else 'no'} CUDA device"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # torchrun: a GPU for each process
    elif name.startswith("cuda:") and "LOCAL_RANK" in os.environ:
        raise UserError(f"--device {name}: under torchrun each process takes another GPU; leave --device out.")
    try:
        chosen = torch.device(name)
        torch.ones(1, device=chosen).item()  # fails on "meta", which has no data
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({first_line}); try --device cpu.") from None
    print(f"device: {Hardware(chosen, 'fp32').describe()}, {reason}")
    reason = "as asked"
    if precision == "auto":
        precision, reason = best_precision(chosen)
    elif precision == "fp16" and chosen.type != "cuda":
        raise UserError("--precision fp16 needs a CUDA device; use bf16 or fp32 here.")
    print(f"precision: {precision}, {reason}")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        # The shapes of the convolutions change only with the image size, so that cuDNN's search for the fastest algorithm
        # pays. TF32 is for operations that autocast leaves in float32; with --precision fp32 there is no TF32.
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    elif chosen.type == "cpu":
        keep_memory()
    if deterministic:
        torch.use_deterministic_algorithms(True)
        cost = "at some cost in speed" if chosen.type == "cuda" else "with the number of threads fixed"
        print(f"deterministic: the same start gives the same bits, {cost}")
    return Hardware(chosen, precision, choose_threads(chosen, deterministic))


def best_precision(device: torch.device) -> tuple[str, str]:
    """The fastest precision that trains these networks as accurately as float32, and the reason."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "bf16", "the GPU has bf16 matrix units"
        return "fp16", "the GPU has no bf16 matrix units; a loss scaler keeps fp16 gradients from vanishing"
    if device.type != "cpu":
        return "fp32", f"nothing else was tried on {device.type}"
    if {"avx512_bf16", "amx_bf16"} & set(cpu_information().split()):
        return "bf16", "the CPU multiplies bf16 in hardware"
    return "fp32", "the CPU has no bf16 arithmetic, and emulating it is slower"


def cpu_information() -> str:
    """What the kernel says about the CPU; empty on systems other than Linux."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def processor() -> str:
    """The CPU's name, and its widest vector unit, on which its speed depends: ``AMD EPYC 9B14, AVX512-BF16``."""
    text = cpu_information()
    name = re.search(r"model name\s*: (.+)", text)
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in text.split()]
    names = [name[1] if name else platform.machine(), *(unit.upper().replace("_", "-") for unit in units[:1])]
    return ", ".join(names)


def keep_memory() -> None:
    """Make glibc keep freed memory for the next step or batch. Otherwise it returns large buffers to the kernel in every step,
    and the kernel clears their pages again. Does nothing with another C library."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of mallopt(3)
    mallopt(trim_threshold, -1)  # never trim
    mallopt(mmap_max, 0)  # allocate no buffer by mmap, because freeing it would unmap it
