"""Resuming a run: reads its last checkpoint and checks that lists, settings and images are those that the run began with."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from lab.checkpoints.checkpoint import About, TrainingState, check_classes, read_about, read_state
from lab.checkpoints.ensembles import refuse_members
from lab.data.lists import DataSet
from lab.errors import UserError
from lab.training.provenance import differences
from lab.training.recipe import Settings
from lab.training.run import RunFiles

CHANGEABLE = ("patience",)  # settings that may change when a run is resumed


def read_settings(path: Path, about: About) -> Settings:
    """The settings in a checkpoint. Raises :class:`UserError` if they are not those of this version of the package."""
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    fields = {field.name: kinds[str(field.type)] for field in dataclasses.fields(Settings)}
    odd = sorted(fields.keys() ^ about.settings.keys())
    odd += [name for name, kind in fields.items() if name not in odd and not isinstance(about.settings[name], kind)]
    if odd:
        raise UserError(
            f"{path}: its settings are not those of this version of the package ({', '.join(odd)}); resume with the version "
            f"that began it, or give --fresh to start over."
        )
    return Settings(**about.settings)


def same_run(one: About, other: About) -> bool:
    """Whether two checkpoints are of the same run: the same lists, first record and settings, except those that may change."""
    first, second = ({**about.settings, **dict.fromkeys(CHANGEABLE)} for about in (one, other))
    return first == second and one.lists == other.lists and one.records[:1] == other.records[:1]


def resumed_settings(began: Settings, given: dict[str, Any], last: Path, finished: bool) -> Settings:
    """The settings to resume with: those of the run, updated by the options ``given`` now. Raises :class:`UserError` with the
    names of options that differ but cannot change."""
    before = asdict(began)
    differ = {name: given[name] for name in before if name in given and name != "model" and before[name] != given[name]}
    changes = {name: f"{name} {before[name]} → {value}" for name, value in differ.items()}
    refused = [changes[name] for name in differ if finished or name not in CHANGEABLE]
    if refused and finished:
        raise UserError(
            f"{last}: finished already, with other settings ({'; '.join(refused)}); --fresh trains it anew."
        )
    if refused:
        fine = "; ".join(changes[name] for name in differ if name in CHANGEABLE)
        raise UserError(
            f"{last}: this run began with other settings ({'; '.join(refused)}), which cannot change; leave them out to resume, "
            f"or give --fresh to start over{f' ({fine} could change)' if fine else ''}."
        )
    for text in changes.values():
        print(f"{text}, used from here on")
    return replace(began, **differ)


class SavedRun(NamedTuple):
    """The content of a last checkpoint without its tensors."""

    about: About
    state: TrainingState
    settings: Settings


def earlier_run(files: RunFiles, data: DataSet, lists: str, given: dict[str, Any]) -> SavedRun | None:
    """The run to resume and its settings from now on, or None if there is no run of this model. ``lists`` is the hash of the data
    set's lists. Raises :class:`UserError` if a file is missing, or of another run or other lists."""
    best, last, model = files.best, files.last, files.weights.name
    refuse_members(files.weights)
    if not last.is_file():
        if best.is_file():
            raise UserError(
                f"{best} exists without {last.name}; put that back to resume, or give --fresh to train anew over it."
            )
        return None
    saved, state = read_about(last, model), read_state(last)
    settings = resumed_settings(read_settings(last, saved), given, last, saved.finished)
    check_classes(last, saved, data.classes)
    if saved.lists not in ("", lists):
        raise UserError(
            f"{last}: {data.folder} has changed since this run began; --fresh starts over on the new lists."
        )
    if state.epoch and not best.is_file():
        raise UserError(f"{best}: missing beside {last.name}; put it back to resume, or give --fresh to start over.")
    if state.epoch and not same_run(read_about(best, model), saved):
        raise UserError(
            f"{best}: is of another run than {last.name}; put back its own to resume, or give --fresh to start over."
        )
    return SavedRun(saved, state, settings)


def check_record(saved: About, now: dict[str, str], last: Path, folder: Path) -> None:
    """Print which fields of the record have changed. Raises :class:`UserError` if the images of ``folder`` have."""
    differ = differences(saved.records[-1], now) if saved.records else []
    if "images" in differ:
        raise UserError(f"{last}: images of {folder} have changed since this run began; --fresh starts over on them.")
    if differ:
        print(f"{saved.model}: resumes with changes that may alter the last digits: {'; '.join(differ)}")
