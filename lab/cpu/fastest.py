"""Measures which algorithm computes each pass of a convolution fastest on this CPU, like cuDNN's benchmark mode on a GPU.

The measured algorithms of a shape are kept in a file, by CPU, torch version, number of threads and images of a batch. Only the
first run of a model on a machine measures them, and the next ones are rounded alike.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from lab.cpu.convolutions import (
    PRODUCT,
    PYTORCH,
    Algorithms,
    Convolution2d,
    Shape,
    Table,
    grad_input,
    grad_weight,
    look_up,
    output,
)
from lab.files import write_whole
from lab.hardware import Hardware, processor

ROUNDS = 3  # timed calls of each algorithm, of which the shortest counts
HOPELESS = 2.0  # an algorithm that takes this many times the shortest time is not timed again
GAIN = 0.95  # another algorithm replaces PyTorch's if it takes at most this share of its time
LARGEST = 16_000_000  # values in the patches of a product that is worth a measurement


def shapes_of(network: nn.Module, sizes: Iterable[int], hardware: Hardware) -> list[Shape]:
    """The shapes of the network's :class:`Convolution2d` for inputs of these sizes, each once. Nothing is computed."""
    shapes: dict[Shape, None] = {}
    copied = copy.deepcopy(network).to("meta").eval()

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, Convolution2d)
        shapes[module.shape(inputs[0])] = None

    for module in copied.modules():
        if isinstance(module, Convolution2d):
            module.register_forward_pre_hook(note)
    for size in sizes:
        with torch.no_grad(), hardware.autocast():
            copied(torch.empty(1, 3, size, size, device="meta"))
    return list(shapes)


def measure(shape: Shape, images: int) -> Algorithms:
    """The fastest algorithm of each pass of a convolution of so many images."""
    dtype = torch.bfloat16 if shape.precision == "bf16" else torch.float32
    rows, columns = -(-shape.height // shape.stride), -(-shape.width // shape.stride)
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers stay

    def tensor(*sides: int) -> torch.Tensor:
        return torch.randn(sides, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)

    input = tensor(images, shape.inputs, shape.height, shape.width)
    weight = tensor(shape.outputs, shape.inputs, shape.kernel, shape.kernel)
    grad_output = tensor(images, shape.outputs, rows, columns)
    possible, stride = shape.possible(), shape.stride
    if shape.kernel > 1 and images * rows * columns * shape.inputs * shape.kernel**2 > LARGEST:
        possible.remove(PRODUCT)
    return Algorithms(
        fastest(possible, lambda algorithm: output(algorithm, input, weight, stride)),
        fastest(possible, lambda algorithm: grad_input(algorithm, grad_output, input, weight, stride)),
        fastest(possible, lambda algorithm: grad_weight(algorithm, grad_output, input, weight, stride)),
    )


def fastest(algorithms: Sequence[str], work: Callable[[str], object]) -> str:
    """The algorithm with the shortest time of ``work``, or PyTorch's if no other gains enough. They are timed in turns, so that a
    change in the machine's speed affects all."""
    times = dict.fromkeys(algorithms, math.inf)
    for algorithm in algorithms:
        work(algorithm)  # libraries choose their kernels in the first call
    for _ in range(ROUNDS):
        for algorithm in [name for name, least in times.items() if least <= HOPELESS * min(times.values())]:
            began = time.perf_counter()
            work(algorithm)
            times[algorithm] = min(times[algorithm], time.perf_counter() - began)
    best = min(times, key=times.__getitem__)
    return best if times[best] <= GAIN * times[PYTORCH] else PYTORCH


def measured_table(network: nn.Module, sizes: Iterable[int], images: int, hardware: Hardware, file: Path) -> Table:
    """The algorithms of all shapes of a network. What an earlier run measured is read from ``file``, and the rest is added to it.

    Prints how many shapes were measured, and how long it took.
    """
    machine = f"{processor()}; torch {torch.__version__}; {hardware.threads.number} threads; {images} images"
    kept = read_tables(file)
    known, began = kept.get(machine, {}), time.perf_counter()
    shapes = shapes_of(network, sizes, hardware)
    missing = [shape for shape in shapes if look_up(known, shape) is None]
    known |= {str(shape): " ".join(measure(shape, images)) for shape in missing}
    table = {str(shape): known[str(shape)] for shape in shapes}
    how = f"measured in {time.perf_counter() - began:.1f} s" if missing else f"as measured before, in {file}"
    print(f"convolutions: the fastest algorithm of each pass for {len(shapes)} shapes, {how}: {counts(table)}")
    if missing:
        with suppress(OSError):  # they will be measured again
            write_whole(file, json.dumps(read_tables(file) | {machine: known}, indent=1) + "\n")
    return table


def counts(table: Table) -> str:
    """How many passes each algorithm has, as text."""
    chosen = [algorithm for text in table.values() for algorithm in text.split()]
    return ", ".join(f"{name} {chosen.count(name)}" for name in sorted(set(chosen), key=chosen.count, reverse=True))


def read_tables(file: Path) -> dict[str, Table]:
    """The tables in a file by machine; none if the file is missing or damaged, because they can be measured again."""
    try:
        tables = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return tables if isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values()) else {}
