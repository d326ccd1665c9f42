"""Finds the images below a folder, and hashes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.data.images import SUFFIXES
from lab.errors import UserError
from lab.files import sha256
from lab.sources.splits import natural_key
from lab.tables import CONTROL
from lab.terminal import progress
from lab.text import counted, shown

# Python decodes bytes of a file name that are not UTF-8 as surrogates.
UNLISTABLE = re.compile(rf"{CONTROL.pattern}|[\\\ud800-\udfff]")


def find_images(src: Path) -> list[str]:
    """Return the paths of all images below ``src``, relative to it, in natural order and without hidden files. Raises
    :class:`UserError` if there is none, or if a list cannot contain a name."""
    files = (path.relative_to(src) for path in src.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = (path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts))
    paths = sorted(visible, key=natural_key)
    if not paths:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(f"no image ({suffixes}) found below {src}: name the folder that contains the images.")
    unlistable = [path for path in paths if UNLISTABLE.search(path)]
    if unlistable:
        examples = ", ".join(map(shown, unlistable[:4])) + (", …" if unlistable[4:] else "")
        raise UserError(
            f"{counted(len(unlistable), 'image name')} below {src} cannot be in a list, because of a control character, "
            f"a backslash or bytes that are not UTF-8: {examples}; rename them."
        )
    return paths


def fingerprints(src: Path, paths: Iterable[str]) -> list[str]:
    """Return the SHA-256 of each file, hex, in the order of ``paths``."""
    files = [src / path for path in paths]
    with ThreadPoolExecutor(4) as pool:
        return list(progress(pool.map(sha256, files), "comparing contents", len(files)))
