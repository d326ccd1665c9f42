"""Which weights a table of predictions was made with: a small JSON file beside it.

File times cannot tell that, because they change when files are copied.
"""

from __future__ import annotations

import json
from pathlib import Path

from lab.checkpoints.ensembles import others
from lab.files import sha256, write_whole


def weights_digests(best: Path) -> list[str]:
    """The SHA-256 of a best checkpoint and of the members that are averaged with it; a missing file is left out, because reading
    the network reports it."""
    return [sha256(path) for path in (best, *others(best.parent)) if path.is_file()]


def write_origin(table: Path, digests: list[str]) -> None:
    """Write beside ``table`` the digests of its weights, and its own digest, which shows whether the table was replaced."""
    write_whole(table.with_suffix(".json"), json.dumps({"file": sha256(table), "weights": digests}, indent=2) + "\n")


def origin_doubt(table: Path, best: Path) -> str:
    """Why ``table`` may not be of the weights ``best``, as the end of a sentence; "" if it is.

    Earlier versions wrote no origin. Of their tables only the time is known, so that the sentence says "may".
    """
    try:
        origin = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
        if origin["file"] == sha256(table):
            return "" if origin["weights"] == weights_digests(best) else f"was not predicted with the present {best}"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    older = table.stat().st_mtime < best.stat().st_mtime
    return f"does not say with which weights it was predicted, and may be older than {best}" if older else ""
