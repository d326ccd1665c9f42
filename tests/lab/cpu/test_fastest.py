"""Measuring which algorithm is fastest, with a clock that the test turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.cpu import fastest as measuring
from lab.cpu.convolutions import PRODUCT, PYTORCH, WINOGRAD, Algorithms, Shape, replace_convolutions
from lab.cpu.fastest import fastest, measured_table, shapes_of
from lab.hardware import Hardware
from models import catalog
from tests.made import Capture, Patch, thin

CPU, BF16 = (Hardware(torch.device("cpu"), precision) for precision in ("fp32", "bf16"))


@pytest.fixture
def timed(monkeypatch: Patch) -> Callable[[dict[str, list[float]]], Callable[[str], None]]:
    """Makes work whose calls take given seconds, the last ones again and again; the first call is the warm-up."""

    def make(seconds: dict[str, list[float]]) -> Callable[[str], None]:
        now, calls = [0.0], {name: iter(times) for name, times in seconds.items()}
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

        def work(name: str) -> None:
            now[0] += next(calls[name], seconds[name][-1])

        return work

    return make


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({PYTORCH: [9, 2], PRODUCT: [9, 1.8], WINOGRAD: [9, 1.5]}, WINOGRAD),
        ({PYTORCH: [9, 2], PRODUCT: [9, 1.95]}, PYTORCH),  # too small a gain
        ({PYTORCH: [1, 2], PRODUCT: [99, 1]}, PRODUCT),  # the warm-up does not count
        ({PYTORCH: [9, 2, 2, 2], PRODUCT: [9, 3, 3, 1]}, PRODUCT),  # the shortest call counts
        ({PYTORCH: [9, 1], PRODUCT: [9, 3, 0.1]}, PYTORCH),  # more than twice as long: not timed again
    ],
)
def test_the_fastest_is_chosen_if_it_gains_enough(
    seconds: dict[str, list[float]], expected: str, timed: Callable[[dict[str, list[float]]], Callable[[str], None]]
) -> None:
    assert fastest(list(seconds), timed(seconds)) == expected


def test_shapes_are_those_of_the_convolutions_at_each_size_and_precision() -> None:
    """Each once, without computing anything; the network does not change."""
    network = catalog.build("resnet18", 2, 64)
    replace_convolutions(network, {})
    for hardware in (CPU, BF16):
        shapes = shapes_of(network, [64], hardware)
        assert len(shapes) == 10  # four of 3×3, and in three layers a 3×3 and a 1×1 of stride 2
        assert Shape(hardware.precision, 3, 1, 64, 64, 16, 16) in shapes
        assert Shape(hardware.precision, 1, 2, 256, 512, 4, 4) in shapes
    assert len(shapes_of(network, [32, 64], CPU)) == 20
    assert next(network.parameters()).device.type == "cpu" and network.training


def test_measured_algorithms_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    """Only what is missing is measured. The random numbers of the run stay the same."""
    network, file = thin("resnet18"), tmp_path / "made" / "convolutions.json"
    replace_convolutions(network, {})
    numbers, measured = torch.get_rng_state(), list[Shape]()

    def measure(shape: Shape, images: int) -> Algorithms:
        measured.append(shape)
        return algorithms_of(shape, images)

    algorithms_of = measuring.measure
    monkeypatch.setattr(measuring, "measure", measure)
    file.parent.mkdir()
    file.write_text('{"another machine": {"fp32": "x"}}')
    table = measured_table(network, [32], 4, CPU, file)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert list(table) == [str(shape) for shape in measured]
    assert len(json.loads(file.read_text())) == 2
    assert "shapes, measured in" in capsys.readouterr().out
    measured.clear()
    assert measured_table(network, [32], 4, CPU, file) == table and not measured
    assert "as measured before" in capsys.readouterr().out
    both = measured_table(network, [32, 48], 4, CPU, file)
    assert both.items() > table.items() and {str(shape) for shape in measured} == both.keys() - table.keys()
    measured.clear()
    measured_table(network, [32], 8, CPU, file)  # another number of images
    assert len(measured) == len(table)


@pytest.mark.parametrize("content", ["", "[1]", '{"machine": 1}', "\0"])
def test_a_damaged_file_is_measured_again(content: str, tmp_path: Path) -> None:
    network, file = thin("resnet18"), tmp_path / "convolutions.json"
    replace_convolutions(network, {})
    file.write_text(content)
    table = measured_table(network, [32], 2, CPU, file)
    assert list(json.loads(file.read_text()).values()) == [table]


def test_a_file_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    network = thin("resnet18")
    replace_convolutions(network, {})
    (tmp_path / "a_file").touch()
    assert measured_table(network, [32], 2, CPU, tmp_path / "a_file" / "convolutions.json")


def test_products_with_huge_patches_are_not_tried(monkeypatch: Patch) -> None:
    """They are never the fastest there, and might not fit into memory."""
    tried: list[list[str]] = []
    monkeypatch.setattr(measuring, "fastest", lambda names, work: tried.append(list(names)) or PYTORCH)  # type: ignore[func-returns-value]
    measuring.measure(Shape("fp32", 3, 1, 8, 8, 16, 16), 2)
    monkeypatch.setattr(measuring, "LARGEST", 2 * 16 * 16 * 8 * 9 - 1)
    measuring.measure(Shape("fp32", 3, 1, 8, 8, 16, 16), 2)
    measuring.measure(Shape("fp32", 1, 1, 800, 8, 16, 16), 2)  # has no patches
    assert tried == [[PYTORCH, PRODUCT, WINOGRAD]] * 3 + [[PYTORCH, WINOGRAD]] * 3 + [[PYTORCH, PRODUCT]] * 3
