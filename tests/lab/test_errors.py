"""An error that the user can correct is one sentence on stderr; a bug is a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import UserError, leave_at_once, run
from lab.signals import Stopped
from tests.made import CPU_MEMORY, GPU_MEMORY, PROJECT, Capture

AGAIN = "start the same command again to resume (a training without --fresh).\n"
MEMORY = "error: out of memory; end other programs, or choose a smaller --size or --batch-size, then run the command again.\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("train.csv line 3: label 'x'."), 2, "error: train.csv line 3: label 'x'.\n"),
        (
            FileNotFoundError(2, "No file", "a"),
            2,
            "error: a: No file; name another place, then run the command again.\n",
        ),
        (MemoryError("Unable to allocate 9 TiB"), 2, MEMORY),
        (GPU_MEMORY, 2, MEMORY),
        (CPU_MEMORY, 2, MEMORY),
        (KeyboardInterrupt(), 130, f"stopped by Ctrl-C; {AGAIN}"),
        (Stopped(signal.SIGTERM), 143, f"stopped by SIGTERM; {AGAIN}"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_an_exit_status(
    error: BaseException, status: int, message: str, capsys: Capture
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == status
    assert capsys.readouterr() == ("", message)


def test_ctrl_c_while_torch_is_imported_is_one_line(tmp_path: Path) -> None:
    """The command gets the signal before the slow imports, when its options are parsed."""
    for name in ("train", "valid"):
        (tmp_path / f"{name}.csv").touch()
    code = f"import runpy, signal, sys\nsys.argv = ['train.py', '--data', '{tmp_path}']\n"
    code += "class Stop:\n    def find_spec(self, name, *_):\n        if name == 'torch': signal.raise_signal(signal.SIGINT)\n"
    code += "sys.meta_path.insert(0, Stop())\nrunpy.run_path('train.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C before anything was begun.\n")


def test_a_closed_pipe_is_no_error() -> None:
    code = "from lab.errors import run\nrun(lambda: [print('line', flush=True) for _ in range(100_000)] and None)"
    line = f'"{sys.executable}" -c "{code}" | head -1'.replace("\n", "; ")
    done = subprocess.run(["bash", "-c", line], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("line\n", "")


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_status_is_what_main_returns(returned: int | None, status: int) -> None:
    """The handler of Ctrl-C that was set before the imports is removed."""
    signal.signal(signal.SIGINT, leave_at_once)
    with pytest.raises(SystemExit) as exit_:
        run(lambda: returned)
    assert exit_.value.code == status
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_bug_is_a_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)
