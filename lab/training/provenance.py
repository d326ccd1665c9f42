"""The record of a run, so that it can be repeated: versions, device, hashes of the source code and of the images."""

from __future__ import annotations

import argparse
import hashlib
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from lab.checkpoints.checkpoint import About, TrainingState, read_about, read_state
from lab.checkpoints.headers import run_file
from lab.errors import UserError
from lab.files import PROJECT
from lab.hardware import Hardware, processor
from lab.threads import described

FOLDERS = ("resnet", "models", "lab/data", "lab/training", "lab/cpu")  # of the code that determines the weights
FILES = ("train.py", "lab/hardware.py", "lab/threads.py", "lab/distributed.py")
HASHES = ("images", "source", "lists")  # too long to print


def make_record(hardware: Hardware, processes: int, digests: Iterable[str]) -> dict[str, str]:
    """Everything that the weights depend on besides the settings. ``digests`` are the hashes of the lists' images."""
    exact = hardware.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "device": hardware.describe(),
        "processor": processor(),
        "precision": hardware.precision,
        "deterministic": "yes" if exact else "no",
        "processes": str(processes),
        "images": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        "source": source_digest(),
        "git": git_state(),
    }


def source_files(project: Path = PROJECT) -> list[Path]:
    """The files that determine the weights: the loop, the networks, the data, the recipe and the gradients."""
    in_folders = [path for folder in FOLDERS for path in (project / folder).rglob("*.py")]
    return sorted([*(project / file for file in FILES), *in_folders])


def source_digest(project: Path = PROJECT) -> str:
    """A hash of the training code. A git commit does not identify code that was changed or unpacked from an archive."""
    digest = hashlib.sha256()
    for path in source_files(project):
        digest.update(path.relative_to(project).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def git_state(project: Path = PROJECT) -> str:
    """The current commit, and whether files differ from it; ``none`` if ``project`` is not the root of a git repository."""

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(project), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != project:
            return "none"
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return "none"


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The fields of two records that differ, as text. The git commit is ignored, because ``source`` identifies the code."""
    names = [name for name in now if name != "git" and name in before and before[name] != now[name]]
    return [name if name in HASHES else f"{name} {before[name]} → {now[name]}" for name in names]


def read_run(path: Path) -> tuple[About, TrainingState]:
    """Description and state of a run; ``path`` is a checkpoint, or its folder."""
    file = run_file(path)
    run = read_about(file)
    if not run.settings or run.members > 1:
        raise UserError(f"--like {path}: is not a training that can be repeated, but imported weights or an average.")
    return run, read_state(file)


def take_over(run: About, args: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """Set the options that are not ``given`` to those of a run, including data set and precision. Returns all options set."""
    first = run.records[0] if run.records else {}
    taken = {"data": run.data, "precision": first.get("precision", "auto"), **run.settings, "model": run.model}
    taken["deterministic"] = first.get("device", "").startswith("cuda") and first["deterministic"] == "yes"
    for name, value in taken.items():
        if name not in given:
            setattr(args, name, value)
    changed = [
        f"{name} {taken[name]} → {value}"
        for name, value in given.items()
        if name != "data" and taken.get(name, value) != value
    ]
    print(f"repeating {args.like}: {run.model} on {run.data}{', but with ' * bool(changed)}{'; '.join(changed)}")
    return taken | given


def compare(
    run: About, state: TrainingState, settings: dict[str, Any], lists: str, now: dict[str, str], path: Path
) -> None:
    """Print whether a repeated run will have the same weights."""
    before = {"lists": run.lists, "threads": described(run.threads), **(run.records[0] if run.records else {})}
    differ = differences(before, {"lists": lists, **now})
    if settings != run.settings:
        print(f"repeating {path}: the settings differ, so the weights will differ")
    elif state.lr_factor < 1 or len(run.records) != 1:
        print(f"repeating {path}: it diverged, or was resumed with changes; the weights may differ")
    elif differ:
        print(f"repeating {path}: the weights may differ, because this has changed: {'; '.join(differ)}")
    else:
        same = now["deterministic"] == "yes"
        end = "so the weights will be the same" if same else "but without --deterministic a GPU's rounding may differ"
        print(f"repeating {path}: nothing has changed, {end}")
