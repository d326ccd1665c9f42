"""Finds the file that a path of a list names, and refuses paths that leave the root.

Plain strings and not pathlib, which takes several times as long: a list may have 100,000 rows.
"""
# ruff: noqa: PTH100, PTH113, PTH114, PTH117, PTH118

from __future__ import annotations

import os
from pathlib import Path


def starts(folder: Path, root: Path | None) -> dict[str, str]:
    """The folders that paths start from, each with its absolute spelling, ending in a slash: ``root`` when given, else the
    list's own ``folder`` and then the working directory."""
    places = [root] if root is not None else [folder, Path()]
    return {os.path.join(place, ""): os.path.join(os.path.abspath(place), "") for place in places}


def locate(text: str, folders: dict[str, str]) -> tuple[str, str, str]:
    """Where a path of a list lies: the place to open, its one absolute spelling, and what is wrong with it, in words.

    A path is taken as it is spelled: ``..`` takes back the folder before it, and what is left must lie below one of
    ``folders``. Links are followed wherever they lead, because data sets are often linked. Where no file lies at any of the
    places, the first of them comes back.
    """
    relative = os.path.normpath(text.strip().replace("\\", "/"))
    leaving = relative.startswith(".") or os.path.isabs(relative)  # or a hidden name, which may go the same way
    first = ("", "")
    for folder, start in folders.items():
        place, spelling = folder + relative, start + relative
        if leaving:  # opened as it was judged: the system would take .. to be the folder that holds a link's target
            place = spelling = os.path.normpath(os.path.join(start, relative))
            if not any(f"{spelling}{os.sep}".startswith(inside) for inside in folders.values()):
                continue
        if os.path.isfile(place):  # False where the system refuses to look: a closed folder, an overlong name
            return place, spelling, ""
        first = first if first[0] else (place, spelling)
    if not first[0]:
        around = " and ".join(dict.fromkeys(map(os.path.normpath, folders.values())))
        return place, spelling, f"lies outside of {around}; name the folder that holds it with --root"
    if os.path.lexists(first[0]):
        return *first, "is a link that leads to no file" if os.path.islink(first[0]) else "is not a file"
    return *first, "does not exist"
