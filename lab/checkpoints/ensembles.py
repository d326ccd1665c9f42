"""Ensembles: folders with several networks of one model, whose predictions are averaged (``python -m studies.average``).

``best.safetensors`` is the member that is best on valid; its description has the number of members. The others are
``member_2.safetensors``, ``member_3.safetensors``, … The folder of a training has one member. Probabilities are averaged
(Lakshminarayanan et al. 2017, Simple and Scalable Predictive Uncertainty Estimation, arXiv 1612.01474), not weights: networks
from different seeds have different features at the same index of a layer.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lab.checkpoints.checkpoint import About, load_network, read_about
from lab.errors import UserError

Member = tuple[nn.Module, About]


def others(folder: Path) -> list[Path]:
    """The files of the members other than ``best.safetensors``, by number."""
    return sorted(folder.glob("member_*.safetensors"), key=lambda path: (len(path.name), path.name))


def other(folder: Path, number: int) -> Path:
    """The file of member ``number``, which is 2 or more."""
    return folder / f"member_{number}.safetensors"


def load_members(path: Path, model: str | None = None) -> list[Member]:
    """The network of a best checkpoint and those averaged with it, in evaluation mode, each with its description. The first
    description holds for the average. Raises :class:`UserError` if one is missing, is surplus, or differs from the first."""
    about = read_about(path, model)
    expected, found = [other(path.parent, number) for number in range(2, about.members + 1)], others(path.parent)
    if found != expected:
        raise UserError(
            f"{path.parent}: {path.name} expects {listed(expected)} beside it, found {listed(found)}; make the folder "
            "anew with studies.average."
        )
    members = [load_network(path, model), *(load_network(member) for member in found)]
    check_alike([path, *found], [about for _, about in members])
    if found:
        print(f"{about.model}: averaging {len(members)} members of {path.parent}")
    return members


def count_parameters(members: list[Member]) -> int:
    """The number of parameters of all members."""
    return sum(values.numel() for network, _ in members for values in network.parameters())


def listed(paths: list[Path]) -> str:
    """The names of files in a message."""
    return ", ".join(path.name for path in paths) or "no other member"


def check_alike(paths: list[Path], abouts: list[About]) -> None:
    """Raise :class:`UserError` if networks differ in the model, the classes, the lists or the window. The size, mean and standard
    deviation of the input may differ, because each member has its own (a progressive run may be best at a smaller size)."""
    first = abouts[0]
    for path, about in zip(paths[1:], abouts[1:], strict=True):
        pairs = {
            "weights of": (first.model, about.model),
            "classes": (first.classes, about.classes),
            "training and valid lists with the hash": (first.lists[:12], about.lists[:12]),
            "a window": (window(first), window(about)),
        }
        for what, (expected, found) in pairs.items():
            if expected != found:
                difference = f"expected {what} {expected}, found {found}"
                raise UserError(f"{path}: cannot be averaged with {paths[0]}: {difference}.")


def window(about: About) -> str:
    """The part of the preprocessing that determines the images in the store, in a message."""
    preprocessing = about.preprocessing
    return f"of {preprocessing.window} px around the {preprocessing.locate}, stored at {preprocessing.source} px"


def refuse_members(folder: Path) -> None:
    """Raise :class:`UserError` for a folder of averaged networks, because a new best checkpoint would replace one of them."""
    if found := others(folder):
        raise UserError(
            f"{folder}: contains an average of {len(found) + 1} networks, made by studies.average, and no run to resume; "
            "give other --weights, or --fresh to train over it."
        )


def remove_members(folder: Path) -> None:
    """Delete an average before a run begins in its folder, so that no old member is averaged with the new network. Best is
    deleted first, because predictions need it."""
    if found := others(folder):
        for path in (folder / "best.safetensors", *found):
            path.unlink(missing_ok=True)
