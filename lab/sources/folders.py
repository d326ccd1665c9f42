"""The images below a folder: their paths, and hashes of their bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.data.images import SUFFIXES
from lab.errors import UserError
from lab.sources.splits import natural
from lab.tables import CONTROL
from lab.terminal import progress
from lab.text import counted, shown

UNLISTABLE = re.compile(
    rf"{CONTROL.pattern}|[\\\ud800-\udfff]"
)  # a file name's bytes that are no UTF-8 come as surrogates


def find_images(src: Path) -> list[str]:
    """All images below ``src``, as paths relative to it, in natural order; hidden files are passed over."""
    found = (path.relative_to(src) for path in src.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = sorted(
        (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)), key=natural
    )
    if not paths:
        raise UserError(
            f"no image ({', '.join(sorted(SUFFIXES))}) lies below {src}: name the folder that holds the images."
        )
    odd = [path for path in paths if UNLISTABLE.search(path)]
    if odd:
        raise UserError(
            f"{counted(len(odd), 'image name')} below {src} cannot stand in a list, for a line break or another control "
            f"character, a backslash or bytes that are no UTF-8: {', '.join(map(shown, odd[:4]))}"
            f"{', …' if odd[4:] else ''}; rename them."
        )
    return paths


def fingerprints(src: Path, paths: Iterable[str]) -> list[str]:
    """SHA-256 of each file, hex, in the order of ``paths``."""

    def fingerprint(path: str) -> str:
        with (src / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    wanted = list(paths)
    with ThreadPoolExecutor(4) as pool:
        return list(progress(pool.map(fingerprint, wanted), "comparing contents", len(wanted)))
