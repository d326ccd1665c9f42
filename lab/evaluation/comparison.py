"""The table of systems ``compare.csv``, which ``studies.compare`` writes; docs/formats.md lists its columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lab.errors import UserError

TEXTS = ["system", "title"]
NUMBERS = ["size", "accuracy", "low", "high", "f1", "auc", "calibration_error", "parameters", "training_flop"]
NUMBERS += ["images_per_second", "p_resnet18"]


def read_comparison(path: Path) -> pd.DataFrame | None:
    """The table, the best system first; None if there is none. Raises :class:`UserError` for another file."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
        return table.assign(**{name: table[name].astype(float) for name in NUMBERS}, title=table["title"].astype(str))
    except (OSError, ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: is not what studies.compare writes ({error}); run it again.") from None
