"""Finds the files of networks and reads the headers of checkpoints, without torch, so that a wrong path is answered at once."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import safetensors

from lab.data.lists import did_you_mean, find_folder
from lab.errors import UserError
from models import catalog

FORMAT = "leukemia-resnet checkpoint 1"


def read_header(path: Path, model: str | None = None) -> dict[str, str]:
    """The metadata in a checkpoint's header. Raises :class:`UserError` for a missing file and for another format."""
    if not path.is_file():
        data = path.parent.parent.name
        hint = f"; `python train.py --model {model or 'resnet18'} --data {data}` makes it" if data else ""
        raise UserError(f"{path}: there is no such checkpoint{hint}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: you may not read this file; its owner can give access with chmod a+r.")
    try:
        with safetensors.safe_open(path, "np") as file:
            header: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: expected a checkpoint in safetensors format, found something else ({error})."
        ) from None
    found = header.get("format", "none")
    if found != FORMAT:
        another_version = found.rsplit(" ", 1)[0] == FORMAT.rsplit(" ", 1)[0]
        hint = "; another version of this package wrote it, use that one" if another_version else ""
        raise UserError(f"{path}: expected format '{FORMAT}', found '{found}'{hint}.")
    return header


def read_file(path: Path) -> bytes:
    """The bytes of a file of weights from elsewhere. Raises :class:`UserError` if it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device might never end
            raise UserError(f"{path}: is not a file; name a .pth or .safetensors file.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None


def run_file(path: Path) -> Path:
    """The checkpoint of a run to repeat; ``path`` is a checkpoint, or a folder such as ``weights/all4/resnet18``."""
    last = path / "last.safetensors"
    return path if path.is_file() else last if last.is_file() else path / "best.safetensors"


def trained_data_sets(weights: Path) -> list[str]:
    """The names of the data sets with a best checkpoint in the folder of weights."""
    return sorted({path.parts[-3] for path in weights.glob("*/*/best.safetensors")})


def chosen_data(data: str, given: bool, weights: Path) -> str:
    """The data set of ``--data``. If that was not ``given`` and the default has neither lists nor weights, it is the only data
    set in ``weights``. Raises :class:`UserError` if there are several."""
    found = trained_data_sets(weights)
    if given or not found or data in found:
        return data
    with suppress(UserError):
        find_folder(data)
        return data
    nothing = f"there are no lists and no weights of {data}"
    if len(found) > 1:
        raise UserError(f"{nothing}; {weights} holds: {', '.join(found)}; choose one with --data.")
    print(f"--data {found[0]}: the only trained data set in {weights}, and {nothing}")
    return found[0]


def trained_models(folder: Path) -> list[str]:
    """The models with a best checkpoint below ``weights/<data>``, in the catalogue's order; :class:`UserError` if none."""
    found = [model for model in catalog.names() if (folder / model / "best.safetensors").is_file()]
    if not found:
        others = trained_data_sets(folder.parent)
        near = did_you_mean(folder.name, others)
        held = f"; {folder.parent} holds: {', '.join(others)}{near}" if others else ""
        raise UserError(
            f"{folder}: no trained model there{held}; `python train.py --model all --data {folder.name}` trains three."
        )
    return found


def chosen_models(folder: Path, option: str) -> list[str]:
    """The models of ``--model``: the one named, or for ``all`` every ResNet trained below ``weights/<data>``."""
    if option != "all":
        return [option]
    trained = trained_models(folder)
    found = [model for model in trained if model in catalog.resnets()]
    if not found:
        raise UserError(f"{folder}: no trained ResNet there; give the model's name, such as --model {trained[0]}.")
    return found


def check_chosen(folder: Path, option: str) -> None:
    """Raise :class:`UserError` if a model of ``--model`` has no best checkpoint below ``weights/<data>``."""
    for model in chosen_models(folder, option):
        read_header(folder / model / "best.safetensors", model)
