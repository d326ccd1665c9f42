"""Finds the file that a path in a list refers to, and refuses paths that lead outside the allowed folders.

Works on strings, because pathlib takes several times as long and a list may have 100,000 rows.
"""
# ruff: noqa: PTH100, PTH113, PTH114, PTH117, PTH112, PTH118, PTH122

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MISSING = "does not exist"


def starts(folder: Path, root: Path | None) -> dict[str, str]:
    """Return the folders that paths start from, each with its absolute path, ending in a slash: ``root`` if given, else the
    list's own ``folder`` and then the working directory."""
    places = [root] if root is not None else [folder, Path()]
    return {os.path.join(place, ""): os.path.join(os.path.abspath(place), "") for place in places}


def nearby(text: str, folders: Iterable[str]) -> str:
    """Say where a file is that a list's path misses narrowly: one folder up or down, or with another spelling; else ""."""
    relative = os.path.normpath(text.strip().replace("\\", "/"))
    stem, suffix = os.path.splitext(relative)
    spellings = [stem + suffix.swapcase(), stem + suffix.lower(), stem + suffix.upper()]
    spellings += [unicodedata.normalize(form, relative) for form in ("NFC", "NFD")]
    for folder in folders:
        for spelling in spellings:
            if spelling != relative and os.path.isfile(os.path.join(folder, spelling)):
                return f"{os.path.join(folder, spelling)} exists, which is spelled differently"
        if not os.access(folder, os.R_OK | os.X_OK):
            return f"{os.path.normpath(folder)} cannot be opened"
        with contextlib.suppress(OSError):
            below = sorted(entry.path for entry in os.scandir(folder) if os.path.isdir(entry.path))
            for root in (os.path.normpath(os.path.join(folder, os.pardir)), *below[:1000]):
                if os.path.isfile(os.path.join(root, relative)):
                    return f"{os.path.join(root, relative)} exists; --root {root} finds it"
        shorter = relative.partition("/")[2]
        if shorter and os.path.isfile(os.path.join(folder, shorter)):
            return f"{os.path.join(folder, shorter)} exists; the paths of the list begin with a folder too many"
    return ""


def locate(text: str, folders: dict[str, str]) -> tuple[str, str, str]:
    """Find the file of a path in a list. Returns the path to open, its absolute path, and what is wrong with it or "".

    ``..`` is resolved in the text, without following links, and the result must be below one of ``folders``. Links are then
    followed wherever they lead, because data sets are often linked. If no folder has such a file, the returned paths are those
    in the first folder.
    """
    relative = os.path.normpath(text.strip().replace("\\", "/"))
    # Hidden names are treated like paths that may leave, with the same result.
    may_leave = relative.startswith(".") or os.path.isabs(relative)
    first = ("", "")
    for folder, start in folders.items():
        path, absolute = folder + relative, start + relative
        if may_leave:  # open the checked path, because the system would apply .. to the target of a link
            path = absolute = os.path.normpath(os.path.join(start, relative))
            if not any(f"{absolute}{os.sep}".startswith(inside) for inside in folders.values()):
                continue
        if os.path.isfile(path):  # also False if the system refuses: a folder without access, a name that is too long
            return path, absolute, ""
        first = first if first[0] else (path, absolute)
    if not first[0]:
        allowed = " and ".join(dict.fromkeys(map(os.path.normpath, folders.values())))
        return path, absolute, f"is outside of {allowed}; name the folder that contains it with --root"
    if os.path.lexists(first[0]):
        return *first, "is a link that leads to no file" if os.path.islink(first[0]) else "is not a file"
    return *first, MISSING
