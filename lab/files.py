"""Files are written whole or not at all: a temporary file on the same disk, flushed, then moved into place."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lab.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; when the block ends well, flush it to disk and move it to ``path``.

    It lies in a folder of its own beside ``path``, since some writers (safetensors) make temporary files beside the one they
    are told to write, and all of them are to be gone when a process was killed on the way. An ``OSError`` of one of them
    comes out naming ``path``.
    """
    make_folder(path.parent)
    mine, ending = f".{path.name}.{socket.gethostname()}-", ".tmp"
    for left in path.parent.glob(f"{glob.escape(mine)}*{ending}"):
        if not is_running(left.name.removeprefix(mine).removesuffix(ending)):
            shutil.rmtree(left, ignore_errors=True)  # of a process of this machine that was killed as it wrote
    folder = path.with_name(f"{mine}{os.getpid()}{ending}")
    try:
        folder.mkdir(exist_ok=True)
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        # One that a library words itself has no number, and would lose its words.
        if error.errno is not None and (error.filename is None or str(error.filename).startswith(str(folder))):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # even where the disk has become read-only; the error matters more


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each to be found again after a power failure."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        flush_folder(place.parent)


def flush_folder(folder: Path) -> None:
    """Bring a folder's entries to disk: without that a file moved into place may be gone after a power failure, or be its
    predecessor again. Where folders cannot be opened (Windows) the system sees to it."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def reserve(path: Path) -> None:
    """Take the room on disk that a file with holes claims by its size; ``OSError`` where there is none. A memory map would
    notice a full disk only as it is written to, and then the system ends the process (SIGBUS)."""
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_writable(folder: Path) -> None:
    """Make a folder, and try it with a file that leaves nothing behind; ``OSError`` where that fails: sooner than after hours."""
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass


def is_running(process: str) -> bool:
    """Whether a process of this number runs; yes where that cannot be told."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError, OverflowError):
        pass
    return True


@contextmanager
def alone(folder: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone. The system gives it free when the process ends, however it ends. Where another
    process holds it, ``wait`` for that, or raise :class:`UserError`."""
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(
                f"{folder}: another process is {doing} there; wait until it has ended, or stop it."
            ) from None
        print(f"{folder}: another process is {doing} there; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8, line ends untouched) to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
