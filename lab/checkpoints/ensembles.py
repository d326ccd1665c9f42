"""Ensembles: folders of several networks of one model, whose predictions are averaged (``python -m studies.average``).

``best.safetensors`` is the member that is best on valid and says how many there are; the others are ``member_2.safetensors``,
``member_3.safetensors``, … A plain training leaves a folder of one member. Averaged are the probabilities (Lakshminarayanan
et al. 2017, Simple and Scalable Predictive Uncertainty Estimation, arXiv 1612.01474), never the weights: runs from different
seeds end in different minima, where the same place in a layer holds another feature, and what lies between them is no network
that anybody trained.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lab.checkpoints.checkpoint import About, load_network, read_about
from lab.errors import UserError

Member = tuple[nn.Module, About]


def others(folder: Path) -> list[Path]:
    """The files of the members beside ``best.safetensors``, in their order."""
    return sorted(folder.glob("member_*.safetensors"), key=lambda path: (len(path.name), path.name))


def other(folder: Path, number: int) -> Path:
    """The file of member ``number``, from 2 on."""
    return folder / f"member_{number}.safetensors"


def load_members(path: Path, model: str | None = None) -> list[Member]:
    """The network of a best checkpoint and those averaged with it, in evaluation mode, each with what its checkpoint says; the
    first speaks for all. Raises :class:`UserError` where one is missing, too many, or cannot be averaged with the first."""
    about = read_about(path, model)
    expected, found = [other(path.parent, number) for number in range(2, about.members + 1)], others(path.parent)
    if found != expected:
        raise UserError(
            f"{path.parent}: {path.name} expects {listed(expected)} beside it, found {listed(found)}; make the folder anew "
            f"with studies.average."
        )
    members = [load_network(path, model), *(load_network(member) for member in found)]
    check_alike([path, *found], [said for _, said in members])
    if found:
        print(f"{about.model}: averaging {len(members)} members of {path.parent}")
    return members


def count_parameters(members: list[Member]) -> int:
    """Number of trained values, of all members of an average."""
    return sum(values.numel() for network, _ in members for values in network.parameters())


def listed(paths: list[Path]) -> str:
    """Names of files in words."""
    return ", ".join(path.name for path in paths) or "no other member"


def check_alike(paths: list[Path], abouts: list[About]) -> None:
    """Refuse networks whose probabilities cannot be averaged, or would not be those of several seeds: of another depth, other
    classes, other lists, another cut of the image. Size, mean and standard deviation of the input may differ: each is
    a member's own (a progressive run may have been best at a smaller size)."""
    first = abouts[0]
    for path, about in zip(paths[1:], abouts[1:], strict=True):
        kinds = [
            ("weights of", first.model, about.model),
            ("classes", first.classes, about.classes),
            ("training and valid lists with the hash", first.lists[:12], about.lists[:12]),
            ("a window", cut(first), cut(about)),
        ]
        for what, expected, found in kinds:
            if expected != found:
                raise UserError(
                    f"{path}: cannot be averaged with {paths[0]}: expected {what} {expected}, found {found}."
                )


def cut(about: About) -> str:
    """The part of the preprocessing that decides what the store holds, in words."""
    preprocessing = about.preprocessing
    return f"of {preprocessing.window} px around the {preprocessing.locate}, stored at {preprocessing.source} px"


def refuse_members(folder: Path) -> None:
    """Refuse to train in a folder of averaged networks: the next best checkpoint would take one of them away."""
    found = others(folder)
    if found:
        raise UserError(
            f"{folder}: holds an average of {len(found) + 1} networks, made by studies.average, and no run to resume; give "
            f"other --weights, or --fresh to train over it."
        )


def remove_members(folder: Path) -> None:
    """Take an average away before a run of this folder's own begins, so that no stale member is averaged with its network. Best
    goes first: without it nothing is predicted with the rest."""
    found = others(folder)
    if found:
        (folder / "best.safetensors").unlink(missing_ok=True)
    for path in found:
        path.unlink(missing_ok=True)
