"""A table of predictions says with which weights it was predicted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.checkpoints.origin import origin_doubt, weights_digests, write_origin


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """The weights, newer than every table."""
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"weights")
    os.utime(path, (4_000_000_000,) * 2)
    return path


@pytest.fixture
def table(tmp_path: Path, best: Path) -> Path:
    path = tmp_path / "valid_resnet18.csv"
    path.write_text("ID\n")
    write_origin(path, weights_digests(best), d4=True)
    return path


def test_copied_weights_are_the_same(table: Path, best: Path) -> None:
    assert origin_doubt(table, best) == ""


@pytest.mark.parametrize("name", ["best.safetensors", "member_2.safetensors"])
def test_other_weights_are_noticed_whatever_the_times_are(table: Path, best: Path, name: str) -> None:
    (best.parent / name).write_bytes(b"others")
    for seconds in (0, 4_000_000_000):
        os.utime(best, (seconds, seconds))
        assert origin_doubt(table, best) == f"was not predicted with the present {best}"


@pytest.mark.parametrize("record", [None, b"", b"[]", b"{}", b"\xff"])
def test_without_a_record_an_older_table_is_doubted(table: Path, best: Path, record: bytes | None) -> None:
    origin = table.with_suffix(".json")
    origin.unlink() if record is None else origin.write_bytes(record)
    doubt = f"does not say with which weights it was predicted, and may be older than {best}"
    assert origin_doubt(table, best) == doubt
    os.utime(best, (0, 0))
    assert origin_doubt(table, best) == ""


def test_a_record_is_of_one_table(table: Path, best: Path) -> None:
    table.write_text("another\n")
    assert "does not say" in origin_doubt(table, best)
