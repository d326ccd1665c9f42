"""Exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """``network`` is the average, which is evaluated and saved (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv
    1703.01780, §2).

    The decay warms up as (1 + t) / (10 + t) after t steps, so that the random initial weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
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
        """Move the average towards the network after step number ``step``, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averaged, self.trained, 1 - decay)
        for average, value in self.copied:
            average.copy_(value)
