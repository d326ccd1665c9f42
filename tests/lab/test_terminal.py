"""Progress bars on terminals only, warnings on standard error, and --quiet."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prepare
from lab import terminal
from lab.terminal import progress, shows_bars, warn
from tests.made import FAST, PATIENCE, PROJECT, Capture, Patch, Trainer, make_data

RUN = ["--data", "csv/tiny", *FAST, "--epochs", "2"]


@pytest.mark.parametrize(("out", "err"), [(True, True), (True, False), (False, True), (False, False)])
def test_bars_are_drawn_only_if_both_streams_are_terminals(
    out: bool, err: bool, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err)
    assert shows_bars() == (out and err)
    assert list(progress(range(3), "decoding")) == [0, 1, 2]
    printed = capsys.readouterr()
    assert ("decoding" in printed.err) == (out and err) and not printed.out


def test_a_long_step_has_lines_where_there_are_no_bars(monkeypatch: Patch, capsys: Capture) -> None:
    times = iter([0.0, 30.0, 61.0, 100.0, 122.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(times))
    assert list(progress("abcd", "decoding", 4, lines=True)) == [*"abcd"]
    assert capsys.readouterr().out == "decoding: 2 of 4 images, 61 s left\ndecoding: 4 of 4 images, 0 s left\n"


@pytest.mark.parametrize(("rank", "expected"), [(None, "warning: odd\n"), ("0", "warning: odd\n"), ("1", "")])
def test_of_several_processes_the_first_warns(
    rank: str | None, expected: str, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    warn("odd")
    assert capsys.readouterr() == ("", expected)


def test_a_log_has_a_line_per_epoch_and_no_bars(trainer: Trainer, tmp_path: Path) -> None:
    make_data(tmp_path / "csv" / "tiny")
    done = trainer.run(tmp_path, *RUN)
    assert done.returncode == 0 and "\r" not in done.stdout and done.stderr == ""
    assert re.findall(r"^resnet18 epoch (\d)/2: .*\n", done.stdout, re.MULTILINE) == ["1", "2"]


def test_a_terminal_shows_a_bar_per_epoch(tmp_path: Path) -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    make_data(tmp_path / "csv" / "tiny")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    line = [sys.executable, str(PROJECT / "tests" / "thin_train.py"), *RUN]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(line, cwd=tmp_path, env=variables, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # on Linux the other end is then closed
            while data := os.read(ours, 65536):
                output += data
        os.close(ours)
        assert process.wait(PATIENCE) == 0, output.decode()
    for bar in ("decoding train", "resnet18 epoch 1/2", "resnet18 epoch 2/2", "validating resnet18"):
        assert f"\r{bar}:   0%|" in output.decode()


def test_quiet_prints_nothing_but_warnings(trainer: Trainer, tmp_path: Path) -> None:
    data = make_data(tmp_path / "csv" / "tiny")
    for number, warning in enumerate(("", "warning: train.csv contains 1 image of valid.csv too, byte for byte")):
        if warning:
            shutil.copy(data / "train" / "0.png", data / "valid" / "0.png")
        done = trainer.run(tmp_path, *RUN, "--quiet", "--weights", f"weights-{number}")
        assert done.returncode == 0 and done.stdout == ""
        assert done.stderr.startswith(warning) and done.stderr.count("\n") == bool(warning)
    assert (tmp_path / "weights-1" / "tiny" / "resnet18" / "best.safetensors").is_file()


def test_quiet_prints_errors(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # restored at the end
    line = ["prepare.py", "sample", "--train", "6", "--valid", "4", "--test", "2", "--quiet"]
    for more, status, error in (([], 0, ""), (["--seed", "1"], 2, "error: csv/sample already has train.csv")):
        monkeypatch.setattr(sys, "argv", [*line, *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(prepare.__file__), run_name="__main__")
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out) == (status, "")
        assert printed.err.startswith(error) and printed.err.count("\n") == bool(error)
