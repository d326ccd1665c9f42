"""``train.py`` with thin networks, for torchrun to start; ``STOP_AFTER=N`` in the environment ends it after N epochs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import made

import train
from lab.errors import run

save = train.save_checkpoint


def save_and_stop(path: Path, about: Any, tensors: Any) -> None:
    """Save, and stop as Ctrl-C would once the wanted epoch is kept."""
    save(path, about, tensors)
    if path.name == "last.safetensors" and about.epoch == int(os.environ["STOP_AFTER"]):
        raise KeyboardInterrupt


if __name__ == "__main__":
    if "STOP_AFTER" in os.environ:
        train.save_checkpoint = save_and_stop
    with made.inside(Path.cwd(), figures=False):
        run(train.main)
