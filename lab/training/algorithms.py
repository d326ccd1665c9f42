"""Decides whether to measure which algorithms the convolutions of a run use on the CPU."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from lab.checkpoints.checkpoint import About
from lab.cpu.convolutions import replace_convolutions
from lab.cpu.fastest import measured_table
from lab.training.forecast import Pace
from lab.training.recipe import size_at
from lab.training.run import Run

WORTH_MEASURING = 120.0  # seconds of training left; a measurement takes a few seconds and gains a tenth


def choose_algorithms(run: Run, pace: Pace, like: About | None, file: Path) -> bool:
    """Choose the algorithms of the convolutions: those of this run so far, of the run to repeat, or measured ones, which ``file``
    keeps. Prints the reason, and returns whether they have changed since ``pace`` was measured."""
    hardware, about = run.hardware, run.about
    if hardware.device.type != "cpu" or not replace_convolutions(run.network, about.algorithms):
        return False
    resumes = run.state.epoch or run.state.step
    repeats = like is not None and like.settings == asdict(run.settings)
    if resumes and same_processor(about.records[-2:]):
        print("convolutions: the algorithms of this run so far")
        return False
    if like is not None and repeats and same_processor([*like.records[-1:], *about.records[-1:]]):
        print("convolutions: the algorithms of the repeated run")
        table = like.algorithms
    elif torch.are_deterministic_algorithms_enabled():
        print("convolutions: fixed algorithms; --deterministic measures none")
        table = {}
    elif not run.ranks.any(pace.run(run.settings, run.state.epoch) > WORTH_MEASURING):
        print("convolutions: fixed algorithms; to measure the fastest would not pay in so short a run")
        table = {}
    else:
        sizes = sorted({size_at(epoch, run.settings) for epoch in range(run.settings.epochs)})
        with run.ranks.first_before_others():
            table = measured_table(run.network, sizes, run.train.batch_size, hardware, file)
    run.about = replace(about, algorithms=table)
    for network in (run.network, run.ema.network):
        replace_convolutions(network, table)
    return table != about.algorithms


def same_processor(records: list[dict[str, str]]) -> bool:
    """Whether all records name the same processor."""
    return len({record.get("processor") for record in records}) == 1
