"""Checks of a hand-in: its weights can be loaded and used, and its sources need nothing outside the zip."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lab.checkpoints.ensembles import load_members
from lab.checkpoints.headers import trained_models
from lab.errors import UserError
from lab.files import sha256
from lab.text import percent, shown

MODULES = ("resnet", "dataloader", "train", "evaluate", "predict", "demo")  # the modules that the lab requires
TIMEOUT = 900  # seconds for importing and loading everything

# Runs in a separate interpreter with -I: without the working directory, PYTHONPATH and user packages, so that every module comes
# from the unpacked folder or is installed. Its last line is JSON: the faults, and a line for each network.
CHILD = """
import importlib, json, sys
from pathlib import Path

folder, weights, modules = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
sys.path.insert(0, str(folder))
faults, rows = [], []
for name in modules:
    try:
        importlib.import_module(name)
    except BaseException as error:
        faults.append(f"{name}: cannot be imported from the zip alone ({type(error).__name__}: {error})")
for name, module in sorted(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if name.split(".")[0] in (*modules, "lab", "models") and file and not Path(file).resolve().is_relative_to(folder.resolve()):
        faults.append(f"{name}: comes from {file}, not from the zip")
if weights and not faults:
    from lab.errors import UserError
    from lab.handin.checks import prove
    try:
        rows = prove(Path(weights))
    except UserError as error:
        faults.append(str(error))
print("\\n" + json.dumps([faults, rows]))
"""


def prove(folder: Path) -> list[str]:
    """Check a folder ``weights/<data>``: its checksums, and that each network can be loaded and applied to a black image. Returns
    a line of text for each network; raises one :class:`UserError` for all faults."""
    faults, rows = checksum_faults(folder), []
    for model in trained_models(folder):
        path = folder / model / "best.safetensors"
        try:
            members = load_members(path, model)
        except UserError as error:
            faults.append(str(error))
            continue
        for network, about in members:
            size = about.preprocessing.size
            with torch.inference_mode():
                if not bool(network(torch.zeros(1, 3, size, size)).isfinite().all()):
                    faults.append(f"{path}: the network's output is not finite; train it again.")
        about = members[0][1]
        count = sum(parameter.numel() for network, _ in members for parameter in network.parameters())
        accuracy = about.metrics.get("valid_accuracy")
        on_valid = "" if accuracy is None else f", {percent(accuracy)} on valid when it was saved"
        rows.append(f"{model}: loads and computes, {count:,} parameters, {len(about.classes)} classes{on_valid}")
    if faults:
        raise UserError("\n".join(faults))
    return rows


def checksum_faults(folder: Path) -> list[str]:
    """Describe the files that differ from the models' SHA256SUMS. Without such a file nothing is compared."""
    faults = []
    names = ("best.safetensors", "SHA256SUMS")  # one of the two may be missing
    for sums in sorted({path.with_name(names[1]) for name in names for path in folder.glob(f"*/{name}")}):
        if not sums.is_file():
            print(f"{sums}: is missing, so the files' bytes are not compared")
            continue
        for number, line in enumerate(sums.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
            if not match:
                faults.append(f"{sums} line {number}: '{shown(line)}' is not a checksum; unpack the zip again.")
            elif not (sums.parent / match[2]).is_file():
                faults.append(f"{sums.parent / match[2]}: is missing; unpack the zip again.")
            elif sha256(sums.parent / match[2]) != match[1]:
                faults.append(
                    f"{sums.parent / match[2]}: differs from the file that was handed in; unpack the zip again."
                )
    return faults


def prove_unpacked(folder: Path, weights: Path | None) -> tuple[list[str], list[str]]:
    """Import the lab's modules from an unpacked hand-in and :func:`prove` its weights, in an interpreter without access to
    this checkout. Returns the faults, and a line of text for each network."""
    command = [sys.executable, "-I", "-B", "-c", CHILD, str(folder), str(weights or ""), *MODULES]
    output: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        done = subprocess.run(command, cwd=folder, timeout=TIMEOUT, **output)
        faults, rows = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return [f"the sources: importing them from the zip alone took more than {TIMEOUT // 60} minutes"], []
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["without a message"])[-1]
        return [f"the sources: the interpreter that imports them from the zip alone failed ({shown(last)})"], []
    return [fault.replace(f"{folder}{os.sep}", "") for fault in faults], rows
