"""Which weights a table of predictions was made with: a small JSON file beside it.

File times cannot tell that, because they change when files are copied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab.checkpoints.ensembles import others
from lab.files import sha256, write_whole


def weights_digests(best: Path) -> list[str]:
    """The SHA-256 of a best checkpoint and of the members that are averaged with it; a missing file is left out, because reading
    the network reports it."""
    return [sha256(path) for path in (best, *others(best.parent)) if path.is_file()]


def write_origin(table: Path, digests: list[str], d4: bool) -> None:
    """Write beside ``table`` the digests of its weights, its own digest, which shows whether the table was replaced, and whether
    the predictions were averaged over D4."""
    origin = {"file": sha256(table), "weights": digests, "d4": d4}
    write_whole(table.with_suffix(".json"), json.dumps(origin, indent=2) + "\n")


def read_origin(table: Path) -> dict[str, Any]:
    """What :func:`write_origin` wrote for this ``table``; empty if there is nothing, or if it is of another table."""
    try:
        origin = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
        return dict(origin) if origin["file"] == sha256(table) else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def origin_doubt(table: Path, best: Path) -> str:
    """Why ``table`` may not be of the weights ``best``, as the end of a sentence; "" if it is.

    Earlier versions wrote no origin. Of their tables only the time is known, so that the sentence says "may".
    """
    if "weights" in (origin := read_origin(table)):
        return "" if origin["weights"] == weights_digests(best) else f"was not predicted with the present {best}"
    older = table.stat().st_mtime < best.stat().st_mtime
    return f"does not say with which weights it was predicted, and may be older than {best}" if older else ""
