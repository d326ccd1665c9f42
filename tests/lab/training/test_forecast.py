"""The forecast, computed by hand, and measuring, which does not change the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lab.hardware import Hardware
from lab.training import forecast
from lab.training.forecast import Pace, measure
from tests.made import Noise, settings, thin

PACE = Pace(32, 64, train=(10.0, 40.0), valid=(1.0, 4.0))


@pytest.mark.parametrize(
    ("size", "seconds"), [(32, 11.0), (64, 44.0), (48, 11 + 33 * (48**2 - 32**2) / (64**2 - 32**2))]
)
def test_the_time_of_an_epoch_is_linear_in_the_image_area(size: int, seconds: float) -> None:
    assert PACE.epoch(size) == pytest.approx(seconds)
    assert Pace(32, 32, (10.0, 10.0), (1.0, 1.0)).epoch(32) == 11  # the smallest network input
    assert Pace(64, 128, (10.0, 60.0), (1.0, 6.0)).epoch(32) == pytest.approx(
        11 / 4
    )  # a straight line would be below zero


def test_the_time_of_a_run_is_the_sum_of_its_epochs() -> None:
    whole = settings(size=64, progressive=True, epochs=3)  # 32, 48 and 64 px
    by_hand = [PACE.epoch(32), PACE.epoch(48), PACE.epoch(64)]
    d4 = 8 * 4.0  # valid at 64 px in eight views
    assert PACE.run(whole) == pytest.approx(sum(by_hand) + d4)
    assert PACE.run(whole, done=2) == pytest.approx(by_hand[2] + d4)
    assert PACE.run(whole, done=3) == d4


def test_the_forecast_names_smaller_runs() -> None:
    plain = settings(size=64, progressive=False, epochs=30)
    assert forecast.forecast(PACE, plain) == (
        "time: about 23 min for 30 epochs, from a measured step; --size 48 about 13 min and --epochs 15 about 12 min"
    )
    assert forecast.forecast(PACE, plain, done=29) == "time: about 76 s left, from a measured step"
    smallest = settings(size=32, progressive=False, epochs=1)
    assert forecast.forecast(PACE, smallest) == "time: about 19 s for 1 epoch, from a measured step"


def test_the_forecast_names_only_what_is_faster() -> None:
    """As measured on a GPU in bf16, whose kernels for a smaller size may be slower."""
    slower = Pace(32, 64, train=(50.0, 40.0), valid=(1.0, 4.0))
    plain = settings(size=64, progressive=False, epochs=30)
    line = forecast.forecast(slower, plain)
    assert line == "time: about 23 min for 30 epochs, from a measured step; --epochs 15 about 12 min"


def test_measuring_does_not_change_the_network() -> None:
    network = thin("resnet18").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train: Any = Noise()
    valid: Any = Noise()
    random_state = torch.random.get_rng_state()
    pace = measure(network, settings(size=64), Hardware(torch.device("cpu"), "fp32"), train, valid)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training and torch.equal(torch.random.get_rng_state(), random_state)
    assert valid.asked == (32, 32, 64, 64)  # a warm-up and a measured batch
    assert train.asked == (32, 64)  # both steps from one pass
    assert (pace.small, pace.full) == (32, 64)
    assert all(value > 0 for value in pace.train + pace.valid)
