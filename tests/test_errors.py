"""A user's mistake is one sentence on stderr and exit status 2; a bug stays a traceback."""

from __future__ import annotations

import pytest

from lab.errors import UserError, run


def test_a_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("train.csv line 3: label 'x' is not a whole number.")

    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", "error: train.csv line 3: label 'x' is not a whole number.\n")


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
