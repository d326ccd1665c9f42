"""The moving average of the weights, compared with the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lab.training.ema import EMA, interval


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 2))


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    network.train()
    optimizer.zero_grad()
    network(torch.randn(5, 3, 4, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_the_average_is_that_of_the_formula_after_each_step(decay: float) -> None:
    torch.manual_seed(0)
    network = tiny()
    ema = EMA(network, decay)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    slow = {name: tensor.double().numpy().copy() for name, tensor in network.state_dict().items()}
    for step in range(12):
        train_step(network, optimizer)
        ema.update(step)
        keep = min(decay, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                slow[name] = tensor.numpy().copy()
            else:
                slow[name] = keep * slow[name] + (1 - keep) * tensor.double().numpy()
        averaged = ema.network.state_dict()
        assert averaged.keys() == slow.keys()
        for name, expected in slow.items():
            np.testing.assert_allclose(averaged[name].numpy(), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert averaged["1.num_batches_tracked"].item() == 12
    # The running statistics are averaged, not copied.
    statistics = network.get_buffer("1.running_mean")
    assert torch.allclose(averaged["1.running_mean"], statistics) == (decay == 0.0)


def test_an_update_does_not_change_the_network_and_the_average_is_not_trained() -> None:
    torch.manual_seed(0)
    network = tiny()
    ema = EMA(network, 0.9)
    train_step(network, torch.optim.SGD(network.parameters(), lr=0.05))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ema.update(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.training and not ema.network.training
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    assert {p.data_ptr() for p in network.parameters()}.isdisjoint(p.data_ptr() for p in ema.network.parameters())


def test_the_average_follows_weights_that_are_loaded_later() -> None:
    """As when a run is resumed."""
    network, other = tiny(), tiny()
    ema = EMA(network, 0.0)
    network.load_state_dict(other.state_dict())
    ema.update(0)
    torch.testing.assert_close(ema.network.state_dict(), other.state_dict())


def test_an_average_of_every_fourth_step_is_near_that_of_all_steps() -> None:
    """It moves only then, and the batch norms' counters with it. The random initial weights are forgotten as soon."""
    torch.manual_seed(0)
    network = tiny()
    every, fourth = EMA(network, 0.97), EMA(network, 0.97, 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    weights = [ema.network.get_parameter("0.weight") for ema in (every, fourth)]
    for step in range(200):
        before = weights[1].clone()
        train_step(network, optimizer)
        for ema in (every, fourth):
            ema.update(step)
        assert torch.equal(before, weights[1]) == (step % 4 != 3)
    assert fourth.network.get_buffer("1.num_batches_tracked").item() == 200
    moved = (network.get_parameter("0.weight") - weights[0]).norm()
    assert (weights[1] - weights[0]).norm() < 0.1 * moved


def test_short_averages_and_short_epochs_move_at_every_step() -> None:
    assert [interval(0.99, 40), interval(0.99, 39), interval(0.9, 1000), interval(0.0, 1000)] == [4, 1, 1, 1]
