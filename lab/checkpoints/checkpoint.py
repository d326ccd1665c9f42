"""Checkpoints: safetensors files with everything that is needed to use them elsewhere. Reading one never runs code.

The tensors of the network have the prefix ``model.``. A last checkpoint also contains ``train.``, the weights that EMA averages,
and ``optimizer.``. Everything else is JSON in the file's header.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lab.checkpoints.headers import FORMAT, read_header
from lab.cpu.convolutions import replace_convolutions
from lab.data.lists import DataSet, list_digest
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError
from lab.files import replacing
from lab.text import counted
from models import catalog

THREADS = re.compile(r" \((\d+) threads?\)$")  # the end of a record's device in earlier versions
# Columns of a history by their names in earlier versions, with their present names.
RENAMED = {"test_accuracy": "valid_accuracy", "test_loss": "valid_loss"}


@dataclass(frozen=True)
class About:
    """The description of a checkpoint: everything that is needed to use its network elsewhere.

    ``lists`` is a hash of the lists it was trained on, ``train_share`` the share of each class in the training list. ``metrics``
    are those it was saved for, ``settings`` the run's, ``history`` one row per epoch. ``records`` describe the software, the
    device and the images (``training/provenance.py``), one at the start and one for each resume with changes. ``threads`` are
    pairs of an optimizer step and the number of CPU threads from that step on. ``algorithms`` are those of the convolutions on a
    CPU (``cpu/convolutions.py``), empty for the fixed ones. ``members`` is the number of networks whose predictions are averaged
    (``checkpoints/ensembles.py``). This network is the first of them, and ``metrics`` are those of the average. ``confidence``
    (``evaluation/confidence.py``) and ``typical`` (``evaluation/unlike.py``) say how far to trust a prediction; both are empty
    until the run has ended.
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
    threads: list[list[int]] = field(default_factory=list)
    algorithms: dict[str, str] = field(default_factory=dict)
    members: int = 1
    confidence: dict[str, float] = field(default_factory=dict)
    typical: list[list[float]] = field(default_factory=list)

    @property
    def device(self) -> str:
        """The device of the first record, with the number of CPU threads; ``not recorded`` by some earlier versions."""
        device = self.records[0].get("device", "not recorded") if self.records else "not recorded"
        numbers = [number for _, number in self.threads]
        if not numbers:
            return device
        if len(numbers) == 1:
            return f"{device} ({counted(numbers[0], 'thread')})"
        return f"{device} ({min(numbers)} to {max(numbers)} threads, changed {counted(len(numbers) - 1, 'time')})"


@dataclass
class TrainingState:
    """The progress of a run, besides its tensors and its history.

    ``epoch`` counts finished epochs. Of the current epoch, ``step`` counts the optimizer's steps, ``loss_sum`` and ``correct``
    are sums over their images, and ``seconds`` is the time they took. ``lr_factor`` is below 1 after a diverged run returned to
    its last checkpoint. ``at_once`` is the number of images that fit into memory at once, if a batch does not. ``scaler`` is the
    state of the loss scaler of fp16.
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
    """Write a checkpoint, whole or not at all. All tensors are copied, because they may be shared or not contiguous."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "about": json.dumps(asdict(about) | asdict(state or TrainingState()))}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata=header)
        except safetensors.SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))  # such as a full disk
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def read_about(path: Path, model: str | None = None) -> About:
    """The description of a checkpoint. Raises :class:`UserError` for a wrong file or another model."""
    about = parse_header(path, model)[0]
    if model is not None and about.model != model:
        raise UserError(f"{path}: expected weights of {model}, found weights of {about.model}.")
    return about


def read_state(path: Path) -> TrainingState:
    """The progress of the run that wrote a checkpoint. Raises :class:`UserError` for a wrong file."""
    return parse_header(path)[1]


def parse_header(path: Path, model: str | None = None) -> tuple[About, TrainingState]:
    """Both parts of a checkpoint's header. Fields written by a later version are ignored."""
    header = read_header(path, model)
    try:
        values = json.loads(header["about"])
        preprocessing = Preprocessing.from_dict(values["preprocessing"])
        about = About(**{**known_fields(About, values), "preprocessing": preprocessing})
        state = TrainingState(**known_fields(TrainingState, values))
        check_fields(about, state)
        history = [{RENAMED.get(name, name): value for name, value in row.items()} for row in about.history]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the checkpoint's description is damaged ({error!r}).") from None
    return with_threads(replace(about, history=history)), state


def with_threads(about: About) -> About:
    """The description, with the number of threads where it belongs: earlier versions had it in the record's device."""
    found = [THREADS.search(record.get("device", "")) for record in about.records]
    if about.threads or not any(found):
        return about
    records = [record | {"device": THREADS.sub("", record.get("device", ""))} for record in about.records]
    return replace(about, records=records, threads=[[0, int(found[0][1])]] if found[0] else [])


def known_fields(kind: type[About] | type[TrainingState], values: dict[str, Any]) -> dict[str, Any]:
    """The ``values`` that are fields of ``kind``."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def check_fields(about: About, state: TrainingState) -> None:
    """Raise ``ValueError`` if a field has another type than its annotation, or a value out of its range."""
    valid: dict[str, bool] = {}
    for values in (about, state):
        kinds = get_type_hints(type(values))
        valid |= {name: has_type(value, kinds[name]) for name, value in vars(values).items()}
    if all(valid.values()):
        valid = {
            "model": about.model in catalog.names(),
            "members": about.members >= 1,
            "confidence": all(map(math.isfinite, about.confidence.values()))
            and all(about.confidence.get(name, 1) > 0 for name in ("temperature", "temperature_d4")),
            "typical": (not about.typical or "unlike" in about.confidence)
            and all(len(row) == len(about.typical) - 1 and all(map(math.isfinite, row)) for row in about.typical),
            "threads": all(len(pair) == 2 and pair[0] >= 0 and pair[1] >= 1 for pair in about.threads),
            "epoch": state.epoch >= 0,
            "step": state.step >= 0,
            "lr_factor": 0 < state.lr_factor <= 1,
            "at_once": state.at_once is None or state.at_once >= 1,
        }
    for name, fine in valid.items():
        if not fine:
            raise ValueError(f"{name} has a wrong value")


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has the type of an annotation; an int is a float, too, but a bool is not an int."""
    parts = get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(has_type(item, parts[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(has_type(item, parts[1]) for item in value.values())
    if parts:  # a union
        return any(has_type(value, part) for part in parts)
    return kind is Any or type(value) is kind or (kind is float and type(value) is int)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: the checkpoint's tensors cannot be read ({error}).") from None


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names have this prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict of exactly the network's names and shapes. Raises :class:`UserError` if it is another or not finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} tensors do not fit the network, the first is {name}: expected "
            f"{expected.get(name, 'none')}, found {found.get(name, 'none')}."
        )
    check_finite(state, path)
    network.load_state_dict(state, strict=True)


def check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Raise :class:`UserError` if a tensor contains NaN or infinity."""
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: {name} contains values that are not finite; this network cannot predict.")


def load_network(path: Path, model: str | None = None) -> tuple[nn.Module, About]:
    """A saved network in evaluation mode, with the algorithms of its training, and its description; ``model`` None accepts any
    model."""
    about = read_about(path, model)
    network = catalog.build(about.model, len(about.classes), about.preprocessing.size)
    load_strictly(network, part(read_tensors(path), "model."), path)
    if about.algorithms:
        replace_convolutions(network, about.algorithms)
    return network.eval().requires_grad_(False), about


def check_classes(path: Path, about: About, classes: list[str]) -> None:
    """Raise :class:`UserError` if a checkpoint was trained on other classes than the data set's, if these are known."""
    if classes and about.classes != classes:
        raise UserError(
            f"{path}: trained on {len(about.classes)} classes {about.classes}, but the data set has {len(classes)}: {classes}."
        )


def check_data(path: Path, about: About, data: DataSet) -> None:
    """Raise :class:`UserError` if a checkpoint was trained on other classes or other lists than a data set's, if these are known.

    Two data sets whose folders have the same name share the folder of weights.
    """
    check_classes(path, about, data.classes)
    known = all((data.folder / f"{name}.csv").is_file() for name in ("train", "valid"))
    if known and about.lists not in ("", list_digest(data)):
        raise UserError(
            f"{path}: trained on other lists than those in {data.folder} (train.csv, valid.csv or the class names differ). "
            f"Name its lists with --data, or other weights with --weights; `python train.py --fresh` trains on these lists."
        )


STATES = {  # what an optimizer keeps for each parameter
    torch.optim.SGD: ["momentum_buffer"],
    torch.optim.Adam: ["exp_avg", "exp_avg_sq", "step"],
    torch.optim.AdamW: ["exp_avg", "exp_avg_sq", "step"],
    torch.optim.RMSprop: ["square_avg", "step"],
}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors, without the settings of its groups, which follow from the run's."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path, begun: bool) -> None:
    """The inverse of :func:`optimizer_tensors`. Raises :class:`UserError` if the state is another optimizer's, or incomplete
    although the training has ``begun``."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = next(keys for kind, keys in STATES.items() if isinstance(optimizer, kind))
    expected = {f"{index}.{key}" for index in range(len(parameters)) for key in keys}
    saved = part(tensors, "optimizer.")
    if not saved.keys() <= expected or (begun and saved.keys() != expected):
        raise UserError(
            f"{path}: expected the optimizer's state of {len(parameters)} parameters, found another or a part of it; "
            "--fresh starts over."
        )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused optimizers require a parameter and its state to have the same memory format. In the file all tensors
            # are contiguous; the network is channels-last.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
