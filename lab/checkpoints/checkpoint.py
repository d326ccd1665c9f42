"""Checkpoints: safetensors files that carry all that is needed to use them elsewhere. Reading one never runs code.

The tensors are the network's, under ``model.``; a last checkpoint adds ``train.`` (the raw weights under the EMA) and
``optimizer.``. Everything else is plain JSON in the file's header.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lab.data.preprocessing import Preprocessing
from lab.errors import UserError
from lab.files import replacing
from models import catalog

FORMAT = "leukemia-resnet checkpoint 1"
# Columns of a history that earlier versions named otherwise; whoever reads a history reads it under today's names.
RENAMED = {"test_accuracy": "valid_accuracy", "test_loss": "valid_loss"}


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself: all that is needed to use its network elsewhere.

    ``lists`` is a hash of the lists it was trained on, ``train_share`` the share of each class in the training list;
    ``metrics`` are those it was saved for, ``settings`` the run's, ``history`` its epochs. ``records`` say what it was made with
    (``training/provenance.py``): from the start on, and from wherever another machine or version resumed it. ``members`` is
    the number of networks whose predictions are averaged, this one being the first (``checkpoints/ensembles.py``); its
    ``metrics`` are then those of the average.
    """

    model: str
    classes: list[str]
    preprocessing: Preprocessing
    data: str = ""
    lists: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    train_share: list[float] = field(default_factory=list)
    finished: bool = False
    records: list[dict[str, str]] = field(default_factory=list)
    members: int = 1


@dataclass
class TrainingState:
    """How far a training is, beside its tensors and its history.

    ``epoch`` counts the epochs that have ended. Of the epoch under way: ``step`` counts the optimizer's steps, ``loss_sum`` and
    ``correct`` are sums over their images, ``seconds`` is the time they took. ``lr_factor`` is below 1 after a diverged run
    returned to its last checkpoint. ``at_once`` is the number of images that the memory holds at once, where that is less than
    was asked for. ``scaler`` is the state of fp16's loss scaler.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    lr_factor: float = 1.0
    at_once: int | None = None
    scaler: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, about: About, tensors: dict[str, Tensor], state: TrainingState | None = None) -> None:
    """Write a checkpoint, whole or not at all. Tensors that are shared or not contiguous are copied first."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "about": json.dumps(asdict(about) | asdict(state or TrainingState()))}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata=header)
        except safetensors.SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))  # a full disk, in the library's words
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def read_about(path: Path, model: str | None = None) -> About:
    """What a checkpoint says of itself, without its tensors. Raises :class:`UserError` for a wrong file or another model."""
    about = parse_header(path, model)[0]
    if model is not None and about.model != model:
        raise UserError(f"{path}: expected weights of {model}, found weights of {about.model}.")
    return about


def read_state(path: Path) -> TrainingState:
    """How far the training was that wrote a checkpoint. Raises as :func:`read_about`."""
    return parse_header(path)[1]


def parse_header(path: Path, model: str | None = None) -> tuple[About, TrainingState]:
    """Both parts of a checkpoint's header. Fields that only later versions write are left out."""
    values = read_header(path, model)
    try:
        about = About(
            **{**known_fields(About, values), "preprocessing": Preprocessing.from_dict(values["preprocessing"])}
        )
        state = TrainingState(**known_fields(TrainingState, values))
        check_plausible(about, state)
        history = [{RENAMED.get(name, name): value for name, value in row.items()} for row in about.history]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the checkpoint's description is damaged ({error!r}).") from None
    return replace(about, history=history), state


def known_fields(kind: type[About] | type[TrainingState], values: dict[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that are fields of ``kind``."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def read_header(path: Path, model: str | None = None) -> dict[str, Any]:
    """The description in a checkpoint's header, as JSON. Raises :class:`UserError` where there is none."""
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such checkpoint; `python train.py --model {model or 'resnet18'} --data "
            f"{path.parent.parent.name}` makes it."
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: expected a checkpoint in safetensors format, found something else ({error})."
        ) from None
    form = str(header.get("format", "none"))
    if form != FORMAT:
        kind = FORMAT.rsplit(" ", 1)[0]
        mend = "; another version of this package wrote it, use that one" if form.startswith(f"{kind} ") else ""
        raise UserError(f"{path}: expected format '{FORMAT}', found '{form}'{mend}.")
    try:
        values = json.loads(header["about"])
        if not isinstance(values, dict):
            raise TypeError("not an object")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the checkpoint's description is damaged ({error!r}).") from None
    return values


def check_plausible(about: About, state: TrainingState) -> None:
    """Raise ``ValueError`` where a field of a checkpoint's description is not of its kind."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def numbers(values: Any) -> bool:
        return isinstance(values, dict) and all(map(number, values.values()))

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    right = {
        "model": about.model in catalog.names(),
        "classes": isinstance(about.classes, list) and all(isinstance(name, str) for name in about.classes),
        "data": isinstance(about.data, str) and isinstance(about.lists, str),
        "members": whole(about.members, 1),
        "metrics": numbers(about.metrics),
        "settings": isinstance(about.settings, dict),
        "history": isinstance(about.history, list) and all(map(numbers, about.history)),
        "train_share": isinstance(about.train_share, list) and all(map(number, about.train_share)),
        "finished": isinstance(about.finished, bool),
        "records": isinstance(about.records, list) and all(isinstance(record, dict) for record in about.records),
        "epoch": whole(state.epoch, 0) and whole(state.step, 0),
        "loss_sum": number(state.loss_sum) and number(state.correct) and number(state.seconds),
        "lr_factor": number(state.lr_factor) and 0 < state.lr_factor <= 1,
        "at_once": state.at_once is None or whole(state.at_once, 1),
        "scaler": isinstance(state.scaler, dict),
    }
    wrong = [name for name, fine in right.items() if not fine]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what it should be")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: the checkpoint's tensors cannot be read ({error}).") from None


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict that must fit exactly; says in one sentence where it does not."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} tensors do not fit the network, the first is {name}: expected "
            f"{expected.get(name, 'none')}, found {found.get(name, 'none')}."
        )
    broken = [
        name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds values that are no finite numbers; this network cannot predict.")
    network.load_state_dict(state, strict=True)


def load_network(path: Path, model: str | None = None) -> tuple[nn.Module, About]:
    """A saved network in evaluation mode, and what its checkpoint says; ``model`` None takes any model."""
    about = read_about(path, model)
    network = catalog.build(about.model, len(about.classes), about.preprocessing.size)
    load_strictly(network, part(read_tensors(path), "model."), path)
    return network.eval().requires_grad_(False), about


def check_classes(path: Path, about: About, classes: list[str]) -> None:
    """Refuse a checkpoint that was trained on other classes than the data set's, where these are known."""
    if classes and about.classes != classes:
        raise UserError(
            f"{path}: trained on {len(about.classes)} classes {about.classes}, but the data set has {len(classes)}: {classes}."
        )


def trained_models(folder: Path) -> list[str]:
    """The models that have a best checkpoint below ``weights/<data>``, in the order of the catalogue."""
    found = [model for model in catalog.names() if (folder / model / "best.safetensors").is_file()]
    if not found:
        raise UserError(
            f"{folder}: no trained model there; `python train.py --model all --data {folder.name}` trains three."
        )
    return found


def chosen_models(folder: Path, asked: str) -> list[str]:
    """The models that ``--model`` asks for: a name, or ``all`` the ResNets that are trained below ``weights/<data>``."""
    if asked != "all":
        return [asked]
    trained = trained_models(folder)
    found = [model for model in trained if model in catalog.resnets()]
    if not found:
        raise UserError(f"{folder}: no trained ResNet there; give the model's name, such as --model {trained[0]}.")
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors; the settings of its groups are the run's and not saved."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path, begun: bool) -> None:
    """The inverse of :func:`optimizer_tensors`. Raises :class:`UserError` where the state is not that of this optimizer after it
    has ``begun``."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = ["exp_avg", "exp_avg_sq", "step"] if isinstance(optimizer, torch.optim.AdamW) else ["momentum_buffer"]
    expected = {f"{index}.{key}" for index in range(len(parameters)) for key in keys}
    saved = part(tensors, "optimizer.")
    if not saved.keys() <= expected or (begun and saved.keys() != expected):
        raise UserError(
            f"{path}: expected the optimizer's state of {len(parameters)} parameters, found another or a part of it; --fresh "
            f"starts over."
        )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused optimizers walk the memory of a parameter and its state side by side, so the layouts must agree:
            # files hold tensors contiguous, the network is channels-last.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
