"""Progress bars and warnings on the terminal. Imports nothing slow."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


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


@functools.cache
def warn_once(text: str) -> None:
    """Like :func:`warn`, but the same text only once in a process."""
    warn(text)


def silence() -> None:
    """Discard this process's standard output from now on; no progress bars are drawn either."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
