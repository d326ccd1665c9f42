"""Files are written whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import UserError
from lab.files import alone, replacing, write_whole
from tests.made import PROJECT


def test_a_new_file_in_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "table.csv"
    write_whole(path, "ID,label\n")
    assert path.read_bytes() == b"ID,label\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("data", ["two\r\nlines\n", "± 0,5 – µ", b"\x00\xff\r\n", ""])
def test_the_bytes_are_those_given(tmp_path: Path, data: str | bytes) -> None:
    write_whole(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == (data.encode("utf-8") if isinstance(data, str) else data)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, error: type[BaseException], old: str | None
) -> None:
    path = tmp_path / "weights.safetensors"
    if old is not None:
        path.write_text(old)
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    left = {entry.name: entry.read_text() for entry in tmp_path.iterdir()}
    assert left == ({} if old is None else {path.name: old})


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("figure.png", "old")]


def test_the_old_file_stands_until_the_block_ends_and_readers_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            # Writers choose the format by the suffix; a move is atomic within one file system only.
            assert temporary.suffix == ".safetensors" and temporary.parent.parent == path.parent
            (temporary.parent / "of a writer's own").write_text("left")
        assert path.read_text() == "new"
        assert reader.read() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_what_a_killed_process_left_half_written_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    gone = [tmp_path / f".a.csv.{host}-{dead.pid}.tmp"]
    others = [
        f".a.csv.{host}-{os.getppid()}",
        f".a.csv.elsewhere-{dead.pid}",
        f".b.csv.{host}-{dead.pid}",
        f".a.csv.{host}-x",
    ]
    kept = [tmp_path / f"{name}.tmp" for name in others]
    for folder in gone + kept:
        folder.mkdir()
        (folder / "a.csv").write_text("half")
        (folder / ".tmpX7aZ").write_text("half of that")
    write_whole(tmp_path / "a.csv", "whole")
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)


def test_new_folders_are_flushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("lab.files.flush_folder", flushed.append)
    write_whole(tmp_path / "a" / "b" / "file", "x")
    assert set(flushed) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    refusal = pytest.raises(UserError, match="another process is training there")
    with alone(folder, "training"), refusal, alone(folder, "training"):
        pass
    code = "import os, sys, pathlib; from lab.files import alone; held = alone(pathlib.Path(sys.argv[1]), 'training')\n"
    code += "held.__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=PROJECT).returncode == -9
    with alone(folder, "training"):  # a killed process leaves no lock behind
        pass


def test_the_folder_is_flushed_after_a_file_was_moved_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a file system may show the folder as it was last flushed."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a system that names a process's open files in /proc")
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(number: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{number}').readlink().name}")
        fsync(number)

    def move(path: Path, target: Path) -> Path:
        done.append("move")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", move)
    write_whole(tmp_path / "file.csv", "a")
    assert done[0] == "flush file.csv" and done[1:] == ["move", f"flush {tmp_path.name}"]
