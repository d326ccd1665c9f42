"""Progress bars and warnings on the terminal. Imports nothing slow."""

from __future__ import annotations

import codecs
import functools
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from lab.text import duration

T = TypeVar("T")
LINE = 60.0  # seconds between two lines about a long step


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
    items: Iterable[T],
    title: str,
    total: int | None = None,
    unit: str = " images",
    lines: bool = False,
    **options: Any,
) -> tqdm[T]:
    """Iterate over ``items``; a progress bar is drawn if :func:`shows_bars`, and removed at the end.

    ``total`` is the number of items (default: ``len(items)``). With ``lines``, for long steps, a line a minute says how far it is
    where no bar is drawn. ``options`` are further options of tqdm, such as ``initial``.
    """
    if lines and total is not None and not shows_bars():
        items = with_lines(items, title, total, unit)
    return tqdm(items, title, total, leave=False, disable=not shows_bars(), unit=unit, **options)


def with_lines(items: Iterable[T], title: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items, and print a line every ``LINE`` seconds."""
    began = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - last >= LINE:
            left = duration((now - began) / number * (total - number))
            print(f"{title}: {number:,} of {total:,}{unit}, {left} left", flush=True)
            last = now


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
