"""The one kind of error a user sees: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. Its text is one clear sentence: what, which file and row, what to do."""


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has ended; torch's is told by its name, since importing torch takes seconds."""
    words = ("not enough memory", "can't allocate memory")  # torch on the CPU
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(text in str(error) for text in words)


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
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        mend = "end other programs, or choose a smaller --size or --batch-size, then run the command again"
        print(f"error: out of memory; {mend}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(
            f"stopped by {name}; start the same command again to go on (a training without --fresh).", file=sys.stderr
        )
        sys.exit(128 + number)
    sys.exit(status or 0)
