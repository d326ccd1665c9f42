"""A user's mistake is one sentence on stderr and exit status 2; a bug stays a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab.errors import UserError, run
from tests.made import PROJECT


def test_a_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("train.csv line 3: label 'x' is not a whole number.")

    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", "error: train.csv line 3: label 'x' is not a whole number.\n")


def test_ctrl_c_while_torch_is_imported_is_one_line() -> None:
    """The command stops itself as soon as its options are read, before the slow imports."""
    code = "import runpy, signal, sys\nsys.argv = ['train.py', '--data', 'nowhere']\n"
    code += "class Stop:\n    def find_spec(self, name, *_):\n        if name == 'torch': signal.raise_signal(signal.SIGINT)\n"
    code += "sys.meta_path.insert(0, Stop())\nrunpy.run_path('train.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C before anything was begun.\n")


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = "from lab.errors import run\nrun(lambda: [print('line', flush=True) for _ in range(100_000)] and None)"
    line = f'"{sys.executable}" -c "{code}" | head -1'.replace("\n", "; ")
    done = subprocess.run(["bash", "-c", line], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("line\n", "")


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == 130
    assert "again" in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_status_is_what_main_returns(returned: int | None, status: int) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(lambda: returned)
    assert exit_.value.code == status


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)
