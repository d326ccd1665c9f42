"""Device and precision are printed with the reasons; those that cannot be used are an error of one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import lab.hardware
from lab.errors import UserError
from lab.hardware import Hardware, best_precision, choose_hardware, processor
from tests.made import Capture, Patch

CPU = torch.device("cpu")


def test_without_cuda_the_cpu_is_chosen_and_the_reasons_are_printed(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware = choose_hardware()
    assert hardware.device == CPU and hardware.precision == best_precision(CPU)[0]
    device, precision, threads = capsys.readouterr().out.splitlines()
    assert device == "device: cpu, torch sees no CUDA device" and threads.startswith("threads: ")
    assert precision == "precision: {}, {}".format(*best_precision(CPU))


def test_the_options_are_used_and_printed(capsys: Capture) -> None:
    assert choose_hardware("cpu", "bf16") == Hardware(CPU, "bf16")
    device, precision, _ = capsys.readouterr().out.splitlines()
    assert device.endswith(", as asked") and precision == "precision: bf16, as asked"


@pytest.mark.parametrize("device", ["nonsense", "", "cuda:99"])
def test_an_unavailable_device_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=rf"--device {device} .*try --device cpu") as error:
        choose_hardware(device)
    assert "\n" not in str(error.value)


def test_fp16_on_the_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="needs a CUDA device"):
        choose_hardware("cpu", "fp16")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16", "bf16"),
        ("fpu amx_bf16", "bf16"),
        ("fpu avx2 avx512f", "fp32"),
        ("avx512_bf16x", "fp32"),
        (None, "fp32"),  # without /proc/cpuinfo
    ],
)
def test_precision_by_cpu(monkeypatch: Patch, tmp_path: Path, flags: str | None, expected: str) -> None:
    if flags:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr("lab.hardware.Path", lambda _: tmp_path / "cpuinfo")
    assert best_precision(CPU)[0] == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_precision_by_gpu(monkeypatch: Patch, capability: tuple[int, int], expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert best_precision(torch.device("cuda"))[0] == expected


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_runs_products_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with Hardware(CPU, precision).autocast():
        assert nn.Linear(3, 2)(torch.zeros(1, 3)).dtype == dtype


def test_placed_networks_are_channels_last_with_the_same_values() -> None:
    network = nn.Conv2d(4, 5, 3)
    before = network.weight.detach().clone()
    weight = Hardware(CPU, "fp32").place(network).get_parameter("weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t: fpu avx2 avx512f avx512_bf16\n", "AMD EPYC, AVX512-BF16"),
        ("model name\t: Old CPU\nflags\t: fpu sse2\n", "Old CPU"),
        ("", "riscv64"),  # another system than Linux
    ],
)
def test_the_processor_is_named_with_its_widest_unit(monkeypatch: Patch, text: str, expected: str) -> None:
    monkeypatch.setattr(lab.hardware, "cpu_information", lambda: text)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert processor() == expected
