"""Files are written whole or not at all: a temporary file on the same disk, flushed, then moved into place."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lab.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name. After the block it is flushed to disk and moved to ``path``, unless an error was
    raised.

    The temporary path is in a new folder beside ``path``, because some writers (safetensors) create temporary files beside their
    output, and all of these have to be removed after a process was killed. An ``OSError`` of such a file names ``path`` instead.
    """
    make_folder(path.parent)
    prefix, suffix = f".{path.name}.{socket.gethostname()}-", ".tmp"
    for left in path.parent.glob(f"{glob.escape(prefix)}*{suffix}"):
        if not is_running(left.name.removeprefix(prefix).removesuffix(suffix)):
            shutil.rmtree(left, ignore_errors=True)  # of a process on this machine that was killed while it wrote
    folder = path.with_name(f"{prefix}{os.getpid()}{suffix}")
    try:
        folder.mkdir(exist_ok=True)
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~UMASK)  # some writers (safetensors) give access to the owner alone
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        # An error without a number has a message of a library, which a file name would replace.
        if error.errno is not None and (error.filename is None or str(error.filename).startswith(str(folder))):
            error.filename = str(path)
        raise
    finally:
        # Fails on a disk that has become read-only; the first error is the one to report.
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and flush their entries to disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk. Otherwise a file moved into place may be missing, or be its predecessor, after a power
    failure. Does nothing on Windows, where a folder cannot be opened."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def reserve(path: Path) -> None:
    """Allocate the disk space of a sparse file. Raises ``OSError`` if the disk is full. Without this, writing to a memory map of
    the file on a full disk would end the process (SIGBUS)."""
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_writable(folder: Path) -> None:
    """Make a folder and write a temporary file there. Raises ``OSError`` if that fails, before hours of work are lost."""
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass


def is_running(process: str) -> bool:
    """Whether a process with this number is running; true if that cannot be determined."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError, OverflowError):
        pass
    return True


@contextmanager
def alone(folder: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Lock a folder for this process. The system releases the lock when the process ends, even if it is killed. If another
    process holds the lock, ``wait`` for it or raise :class:`UserError`."""
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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8, line ends untouched) to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
