"""Progress bars and warnings on the terminal. Imports nothing slow."""

from __future__ import annotations

import codecs
import functools
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


PLAIN = {"→": "->", "–": "-", "…": "...", "×": "x", "±": "+-", "·": "-"}  # for consoles that have no such characters


def prepare_streams() -> None:
    """Make standard output and error usable: characters that the console's encoding lacks are replaced, and a closed stream is
    opened on the null device, because the next file that is opened would take its place otherwise."""
    codecs.register_error("plain", lambda error: (plain(error), error.end))  # type: ignore[attr-defined]
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def plain(error: UnicodeError) -> str:
    """The replacement of the characters that could not be encoded."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end])


def shows_bars() -> bool:
    """Whether progress bars are drawn: only if both output streams are terminals, because a log file keeps every redraw."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def progress(
    items: Iterable[T], title: str, total: int | None = None, unit: str = " images", **options: Any
) -> tqdm[T]:
    """Iterate over ``items``; a progress bar is drawn if :func:`shows_bars`, and removed at the end.

    ``total`` is the number of items (default: ``len(items)``). ``options`` are further options of tqdm, such as ``initial``.
    """
    return tqdm(items, title, total, leave=False, disable=not shows_bars(), unit=unit, **options)


def warn(text: str) -> None:
    """Write ``warning: text`` to standard error, above any progress bar; under torchrun only in the first process."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(f"warning: {text}", file=sys.stderr)


def say(text: str) -> None:
    """Print a line, above any progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


@functools.cache
def warn_once(text: str) -> None:
    """Like :func:`warn`, but the same text only once in a process."""
    warn(text)


def silence() -> None:
    """Discard this process's standard output from now on; no progress bars are drawn either."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
