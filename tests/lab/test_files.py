"""Files that are written whole or not at all, and locked folders."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import UserError
from lab.files import alone, replacing, write_whole
from tests.made import PROJECT


@pytest.mark.parametrize("data", ["two\r\nlines\n", "± 0,5 – µ", b"\x00\xff\r\n", ""])
def test_a_file_in_new_folders_has_the_data_unchanged(tmp_path: Path, data: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, data)
    assert path.read_bytes() == (data.encode("utf-8") if isinstance(data, str) else data)
    assert [*path.parent.iterdir()] == [path]


def test_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    with replacing(tmp_path / "weights") as temporary:
        temporary.touch(mode=0o600)  # as safetensors does
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o666 & ~umask


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


def test_the_old_file_remains_until_the_block_ends_and_for_open_readers(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            # Libraries choose the format by the suffix. A move is atomic only within a file system.
            assert temporary.suffix == ".safetensors" and temporary.parent.parent == path.parent
            (temporary.parent / "of a writer's own").write_text("left")
        assert path.read_text() == "new"
        assert reader.read() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_temporary_files_of_a_killed_process_are_removed_and_no_others(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    a, b = (f".{name}.csv.{socket.gethostname()}" for name in "ab")
    names = [f"{a}-{dead.pid}", f"{a}-{os.getppid()}", f"{a}-x", f"{b}-{dead.pid}", f".a.csv.elsewhere-{dead.pid}"]
    folders = [tmp_path / f"{name}.tmp" for name in names]
    for folder in folders:
        folder.mkdir()
        (folder / ".tmpX7aZ").write_text("half")
    write_whole(tmp_path / "a.csv", "whole")
    assert [folder.exists() for folder in folders] == [False, True, True, True, True]


def test_a_folder_is_locked_by_one_process_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    refusal = pytest.raises(UserError, match="another process is training there")
    with alone(folder, "training"), refusal, alone(folder, "training"):
        pass
    code = "import os, sys, pathlib; from lab.files import alone; lock = alone(pathlib.Path(sys.argv[1]), 'training')\n"
    code += "lock.__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=PROJECT).returncode == -9
    with alone(folder, "training"):  # a killed process leaves no lock behind
        pass


def test_files_and_folders_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure a folder may have the entries of its last flush."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a system that lists a process's open files in /proc")
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(number: int) -> None:
        calls.append(f"flush {Path(f'/proc/self/fd/{number}').readlink().name}")
        fsync(number)

    def move(path: Path, target: Path) -> Path:
        calls.append("move")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", move)
    write_whole(tmp_path / "a" / "b" / "file.csv", "text")
    assert calls == ["flush a", f"flush {tmp_path.name}", "flush file.csv", "move", "flush b"]
