"""Exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class EMA:
    """``network`` is the average, which is evaluated and saved (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv
    1703.01780, §2).

    The decay warms up as (1 + t) / (10 + t) after t steps, so that the random initial weights are soon forgotten. The average
    moves at each ``every``-th step, with the product of the decays of all steps since the last time.
    """

    def __init__(self, network: nn.Module, decay: float, every: int = 1) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.every = decay, every
        self.averaged, self.trained, self.copied = [], [], []
        trained = network.state_dict(keep_vars=True)
        for name, tensor in self.network.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                self.averaged.append(tensor)
                self.trained.append(trained[name])
            else:  # batch norm's num_batches_tracked
                self.copied.append((tensor, trained[name]))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network after step number ``step``, counted from 0, if it is an ``every``-th one."""
        if (step + 1) % self.every:
            return
        steps = range(step + 1 - self.every, step + 1)
        decay = math.prod(min(self.decay, (1 + number) / (10 + number)) for number in steps)
        torch._foreach_lerp_(self.averaged, self.trained, 1 - decay)
        for average, value in self.copied:
            average.copy_(value)


def interval(decay: float, steps: int) -> int:
    """Every how many steps an average moves, in a run with so many ``steps`` per epoch.

    Each time it reads and writes all weights, as much as half a step of the optimizer. If it averages over many steps,
    every fourth is enough (torchvision's references take every 32nd), and the last three steps of an epoch may be missing.
    """
    return 4 if decay >= 0.97 and steps >= 40 else 1
