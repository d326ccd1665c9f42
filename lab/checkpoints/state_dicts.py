"""Reads a plain ``state_dict`` of a standard ResNet from elsewhere, without running any code in the file."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lab.checkpoints.checkpoint import check_finite
from lab.checkpoints.headers import read_file
from lab.errors import UserError
from lab.text import counted, shown
from models import catalog

# Keys under which a state dict is commonly saved.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
FIRST = "conv1.weight"  # of a standard ResNet; what precedes it is the prefix of a module that wraps the network
NORMALISATIONS = {  # mean and standard deviation per channel of RGB in 0…1
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # of torchvision's recipes
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.safetensors`` file under a standard ResNet's names. Their values are not checked.

    PyTorch's restricted unpickler (``weights_only=True``) creates tensors and plain containers and refuses everything else, so no
    code runs. Raises :class:`UserError` if the file contains more than that or no state dict.
    """
    data = read_file(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        if path.suffix == ".safetensors":
            raise UserError(f"{path}: is damaged, or is not in the safetensors format; download it again.") from None
        raise UserError(f"{path}: {kind_of_file(data, str(error))}") from None
    for _ in range(4):  # a limit, because a dictionary may contain itself
        inner = [content[key] for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        found = type(content).__name__
        if isinstance(content, dict):
            odd = [
                f"{shown(str(key), 60)} ({type(item).__name__})"
                for key, item in content.items()
                if not isinstance(item, Tensor)
            ]
            found = f"a dictionary with other values: {', '.join(odd[:5])}" if odd else "an empty dictionary"
        raise UserError(f"{path}: expected a state dict, names and tensors, found {found}.")
    state = {str(name): tensor.detach() for name, tensor in content.items()}
    prefixes = [name.removesuffix(FIRST) for name in state if name == FIRST or name.endswith(f".{FIRST}")]
    prefix = min(prefixes, key=len, default="")
    foreign = [name for name in state if not name.startswith(prefix)]
    if foreign:
        raise UserError(
            f"{path}: the network's tensors begin with {shown(prefix)}, and {shown(', '.join(foreign[:5]))} do not; "
            f"save the state dict of the network alone."
        )
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        special = tensor.is_meta or tensor.is_nested or tensor.is_quantized or tensor.is_complex()
        if special or tensor.layout != torch.strided:
            raise UserError(f"{path}: {name} is not a plain tensor of real numbers, as a state dict's are.")
    return state


def kind_of_file(data: bytes, error: str) -> str:
    """Say what a file is that could not be loaded, by its first bytes or torch's ``error``, and what to do."""
    start = data[:200].lstrip().lower()
    if not data:
        return "is empty; download it again."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; run git lfs pull where it comes from."
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "is a web page, not the weights; the download needs another address or a login."
    if data.startswith(b"PK") and not zipfile.is_zipfile(io.BytesIO(data)):
        return "is truncated; download it again."
    named = re.search(r"GLOBAL ([\w.]+)", error)
    what = f"contains {named[1]}" if named else "cannot be read as tensors and plain data"
    kind = ""
    if named and named[1].startswith("numpy"):
        kind = ", a number or an array of numpy"
    elif named:
        kind = ", a Python object such as a whole model or an optimizer"
    return (
        f"{what}{kind}; nothing but tensors and plain data is loaded, because anything else could run code. Ask for the file "
        f"that torch.save(model.state_dict(), …) writes."
    )


def recognise(path: Path, state: dict[str, Tensor], classes: int, size: int) -> str:
    """The ResNet that a state dict belongs to, by its names and shapes. Raises :class:`UserError` if there is none, or if a value
    is not finite.

    Changes ``state`` in place: values become float32, and the norms' batch counters, which old files lack, are added.
    """
    mismatches: dict[str, list[tuple[str, Any, Any]]] = {}
    for model in catalog.resnets():
        with torch.device("meta"):  # shapes without memory
            network = catalog.build(model, classes, size)
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        counters = {name for name in expected.keys() - state.keys() if name.endswith("num_batches_tracked")}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()} | dict.fromkeys(counters, ())
        triples = [(name, expected.get(name), found.get(name)) for name in sorted(expected.keys() | found.keys())]
        mismatches[model] = [triple for triple in triples if triple[1] != triple[2]]
        if not mismatches[model]:
            check_finite(state, path)
            state |= {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}
            state |= {name: torch.tensor(0) for name in counters}
            return model
    closest = min(mismatches, key=lambda model: len(mismatches[model]))
    count, (name, expected_shape, found_shape) = len(mismatches[closest]), mismatches[closest][0]
    hint = ""
    if name == "fc.bias" and found_shape:
        hint = f"; its classifier has {found_shape[0]} classes, the data set {classes}"
    raise UserError(
        f"{path}: fits none of {', '.join(mismatches)}; of {closest}, the closest, {counted(count, 'tensor')} "
        f"differ{'s' * (count == 1)}, first {name}: expected {expected_shape or 'none'}, found {found_shape or 'none'}{hint}."
    )
