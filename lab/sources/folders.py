"""Finds the images below a folder, and hashes them."""

from __future__ import annotations

import re
from collections import Counter
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
    files = [path.relative_to(src) for path in src.rglob("*") if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    paths = sorted((path.as_posix() for path in files if path.suffix.lower() in SUFFIXES), key=natural_key)
    others = Counter(path.suffix.lower() or "without suffix" for path in files if path.suffix.lower() not in SUFFIXES)
    suffixes = ", ".join(sorted(SUFFIXES))
    if not paths:
        raise UserError(f"no image ({suffixes}) found below {src}: name the folder that contains the images.")
    if others:
        kinds = ", ".join(f"{number:,} {shown(suffix, 20)}" for suffix, number in others.most_common(5))
        print(
            f"{counted(sum(others.values()), 'other file')} left out ({kinds}); images are read if called {suffixes}."
        )
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
