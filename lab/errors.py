"""Errors that a user sees: one sentence with what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

P = ParamSpec("P")


class UserError(Exception):
    """An error that the user can correct. The message is one sentence: what is wrong, in which file and row, what to do."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Torch's error type is recognised by its name, because importing torch takes seconds."""
    messages = ("not enough memory", "can't allocate memory")  # torch on the CPU
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(message in str(error) for message in messages)


def leave_at_once(*_: object) -> None:
    """The handler of Ctrl-C while a command imports its modules: exits without a traceback."""
    print("stopped by Ctrl-C before anything was begun.", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT)


def run(main: Callable[P, int | None], *args: P.args, **options: P.kwargs) -> None:
    """Run a command's ``main`` with its arguments and exit with the status that it returns; errors as in :func:`reported`."""
    if signal.getsignal(signal.SIGINT) is leave_at_once:  # set before the imports, which have finished
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with reported():
        status = main(*args, **options)
    sys.exit(status or 0)


@contextmanager
def reported() -> Iterator[None]:
    """Exit with one line on stderr if the block raises an error that a user can correct: status 2 for a :class:`UserError`."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of the output (head, less) has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 and SIGPIPE, as the shell expects
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        placed = isinstance(error, (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError))
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
        mend = "name another place" if placed else "make room or give access" if full else "correct this"
        print(f"error: {file}{error.strerror or error}; {mend}, then run the command again.", file=sys.stderr)
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
            f"stopped by {name}; start the same command again to resume (a training without --fresh).", file=sys.stderr
        )
        sys.exit(128 + number)
