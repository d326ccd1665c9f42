"""Weights from elsewhere: a plain ``state_dict`` of a standard ResNet, read without running any code in the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lab.errors import UserError
from lab.text import counted
from models import catalog

# The keys under which people save a state dict, and the prefixes that its names get where a module wraps the network.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "resnet.")
NORMALISATIONS = {  # mean and standard deviation per channel, RGB in 0…1
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # of torchvision's recipes
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.safetensors`` file under a standard ResNet's names; their values are not looked at yet.

    PyTorch's restricted unpickler (``weights_only=True``) makes tensors and plain containers and refuses everything else, so
    that no code runs. Raises :class:`UserError` for what holds more than that, or is no state dict.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
            raise UserError(f"{path}: is not a file; name a .pth or .safetensors file.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or hostile pickle makes the unpickler raise is not to be foreseen
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: cannot be opened as tensors and plain data alone, and anything else could run code ({reason}); ask for the "
            f"file that torch.save(model.state_dict(), …) writes."
        ) from None
    for _ in range(4):  # a limit, because a dictionary may hold itself
        inner = [content[key] for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        found = type(content).__name__ if not isinstance(content, dict) else "a dictionary of other things than tensors"
        raise UserError(f"{path}: expected a state dict, names and tensors, found {found}.")
    state = {str(name): tensor.detach() for name, tensor in content.items()}
    while prefix := next((text for text in PREFIXES if all(name.startswith(text) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        if (
            tensor.layout != torch.strided
            or tensor.is_meta
            or tensor.is_nested
            or tensor.is_quantized
            or tensor.is_complex()
        ):
            raise UserError(f"{path}: {name} is not a plain tensor of real numbers, as a state dict's are.")
    return state


def recognise(path: Path, state: dict[str, Tensor], classes: int, size: int) -> str:
    """Which ResNet a state dict belongs to, by its names and shapes. Makes it fit: values become float32, and the norms' counters
    of batches, which old files lack and nothing needs, are filled in. Raises :class:`UserError` with what was expected and found
    where it is none of them, or holds values that are no finite numbers."""
    misfits = {}
    for model in catalog.resnets():
        with torch.device("meta"):  # shapes without memory
            expected = {
                name: tuple(tensor.shape) for name, tensor in catalog.build(model, classes, size).state_dict().items()
            }
        counters = {name for name in expected if name.endswith("num_batches_tracked")}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()} | dict.fromkeys(
            counters - state.keys(), ()
        )
        misfits[model] = [
            (name, expected.get(name), found.get(name)) for name in sorted(expected.keys() | found.keys())
        ]
        misfits[model] = [misfit for misfit in misfits[model] if misfit[1] != misfit[2]]
        if not misfits[model]:
            for name, tensor in state.items():
                if not bool(tensor.isfinite().all()):
                    raise UserError(
                        f"{path}: {name} holds values that are no finite numbers; this network cannot predict."
                    )
                state[name] = tensor.float() if tensor.is_floating_point() else tensor
            state.update({name: torch.tensor(0) for name in counters - state.keys()})
            return model
    closest = min(misfits, key=lambda model: len(misfits[model]))
    name, expected_shape, found_shape = misfits[closest][0]
    hint = ""
    if name == "fc.bias" and found_shape:
        hint = f"; its classifier has {found_shape[0]} classes, the data set {classes}"
    raise UserError(
        f"{path}: fits none of {', '.join(misfits)}; of {closest}, the closest, {counted(len(misfits[closest]), 'tensor')} "
        f"differ{'s' * (len(misfits[closest]) == 1)}, first "
        f"{name}: expected {expected_shape or 'none'}, found {found_shape or 'none'}{hint}."
    )
