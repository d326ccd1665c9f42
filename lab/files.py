"""Files are written whole or not at all: a temporary file in the same folder, flushed, then moved into place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, flush it to disk and move it to ``path``.

    The temporary name keeps the suffix, which image and archive writers use to choose the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder, and try it with a file that is taken away again; ``OSError`` where that fails: sooner than after hours."""
    with replacing(folder / ".writable") as temporary:
        temporary.touch()
    (folder / ".writable").unlink()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8, line ends untouched) to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
