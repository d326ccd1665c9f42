"""The one kind of error a user sees: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. Its text is one clear sentence: what, which file and row, what to do."""


def run(main: Callable[[], int | None]) -> None:
    """Run a command's ``main`` and exit; a :class:`UserError` becomes one line on stderr and exit status 2."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        placed = isinstance(error, (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError))
        mend = "name another place" if placed else "make room or give access"
        print(f"error: {where}{error.strerror or error}; {mend}, then run the command again.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(
            f"stopped by {name}; start the same command again to go on (a training without --fresh).", file=sys.stderr
        )
        sys.exit(128 + number)
    sys.exit(status or 0)
