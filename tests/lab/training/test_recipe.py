"""The recipe: values computed by hand, and properties for any settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lab.errors import UserError
from lab.training.recipe import class_weights, clip_gradients, learning_rate, make_optimizer, size_at
from models import catalog
from tests.made import settings

FEW = hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
CPU = torch.device("cpu")


# ---- learning rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1 * 1 / 5),  # warm-up over the 4 steps of epoch 1: fifths of the peak
        (3, 0.1 * 4 / 5),
        (4, 0.1),  # the cosine decay over the other 8 steps
        (6, 0.05 * (1 + math.sqrt(0.5))),
        (8, 0.05),
        (10, 0.05 * (1 - math.sqrt(0.5))),
        (11, 0.05 * (1 + math.cos(7 * math.pi / 8))),
    ],
)
def test_learning_rate_by_hand(step: int, expected: float) -> None:
    assert learning_rate(step, 4, settings(epochs=3, warmup=1.0, lr=0.1)) == pytest.approx(expected, rel=1e-12)


@FEW
@given(st.integers(1, 40), st.integers(1, 30), st.floats(0, 60))
def test_learning_rate_rises_then_falls_and_stays_positive(epochs: int, steps: int, warmup: float) -> None:
    chosen = settings(epochs=epochs, warmup=warmup, lr=0.3)
    rates = np.array([learning_rate(step, steps, chosen) for step in range(epochs * steps)])
    assert (rates > 0).all() and (rates <= 0.3 + 1e-12).all()
    peak = int(rates.argmax())
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()
    assert peak <= epochs * steps / 2 + 1  # at least half of the run is decay, also with a long warm-up


def test_learning_rate_without_warm_up_begins_at_the_peak_and_ends_near_zero() -> None:
    chosen = settings(epochs=30, warmup=0.0, lr=0.1)
    assert learning_rate(0, 100, chosen) == 0.1
    assert 0 < learning_rate(30 * 100 - 1, 100, chosen) < 1e-6


# ---- optimizer


@pytest.mark.parametrize(
    ("name", "kind", "decay"),
    [
        ("sgd", torch.optim.SGD, 5e-4),
        ("adamw", torch.optim.AdamW, 0.05),
        ("adam", torch.optim.Adam, 0.0),
        ("rmsprop", torch.optim.RMSprop, 0.0),
    ],
)
def test_norms_and_biases_do_not_decay(name: str, kind: type[torch.optim.Optimizer], decay: float) -> None:
    network = catalog.build("resnet18", 2, 32)
    optimizer = make_optimizer(network, settings(optimizer=name, weight_decay=decay), "fp32")
    assert isinstance(optimizer, kind)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    # By name, not by shape: the weights of convolutions and of the classifier decay.
    vectors = {n for n, _ in network.named_parameters() if ".bn" in f".{n}" or "downsample.1" in n or n == "fc.bias"}
    for parameter_name, parameter in network.named_parameters():
        assert decays.pop(id(parameter)) == (0.0 if parameter_name in vectors else decay), parameter_name
    assert not decays
    # ResNet18 has 20 convolutions and norms, and one linear layer.
    assert [len(group["params"]) for group in optimizer.param_groups] == [20 + 1, 2 * 20 + 1]


def test_sgd_has_nesterov_momentum() -> None:
    """Computed by hand for a weight of 1 and gradients of 1: v = 1, then 1.9; each step is lr · (g + 0.9 v)."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    optimizer = make_optimizer(layer, settings(lr=0.1, weight_decay=0.0), "fp32")
    for expected in (1 - 0.1 * 1.9, 1 - 0.1 * 1.9 - 0.1 * (1 + 0.9 * 1.9)):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        assert layer.weight.item() == pytest.approx(expected, rel=1e-6)


# ---- sizes


def test_sizes_with_and_without_progressive_resizing() -> None:
    assert {size_at(epoch, settings(size=72, epochs=5)) for epoch in range(5)} == {72}
    chosen = settings(size=128, epochs=30, progressive=True)
    assert [size_at(epoch, chosen) for epoch in range(30)] == [64] * 10 + [96] * 10 + [128] * 10


@FEW
@given(st.integers(32, 256), st.integers(3, 50))
def test_sizes_never_decrease_and_end_at_the_full_size(size: int, epochs: int) -> None:
    sizes = [size_at(epoch, settings(size=size, epochs=epochs, progressive=True)) for epoch in range(epochs)]
    assert sizes == sorted(sizes) and sizes[-1] == size and sizes[0] >= 32


# ---- class weights


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("balanced", [0, 0, 0, 1], [4 / (2 * 3), 4 / (2 * 1)]),
        ("balanced", [0] * 5 + [1] * 11 + [2] * 2, [18 / (3 * 5), 18 / (3 * 11), 18 / (3 * 2)]),
        ("1.2, 1", [0, 0, 0, 1], [1.2 * 4 / (3 * 1.2 + 1.0), 1.0 * 4 / (3 * 1.2 + 1.0)]),  # a mean of 1 over the images
    ],
)
def test_class_weights(text: str, labels: list[int], expected: list[float]) -> None:
    weights = class_weights(text, np.array(labels), len(expected), CPU)
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert class_weights("none", np.array(labels), len(expected), CPU) is None


@pytest.mark.parametrize("text", ["heavy", "", "1", "1,2,3", "0,1", "1,-1", "1;2", "nan,1", "1,inf"])
def test_invalid_class_weights_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--class-weights .*2 numbers"):
        class_weights(text, np.array([0, 1]), 2, CPU)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, math.nan, math.inf])
def test_gradients_are_clipped_like_pytorchs(scale: float) -> None:
    """Also within the limit, where nothing is multiplied, and if they are no longer finite. A parameter may have no gradient."""
    networks = [torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)) for _ in range(2)]
    for network in networks:
        torch.manual_seed(0)
        for parameter in [*network.parameters()][:3]:
            parameter.grad = torch.randn_like(parameter) * scale
    clip_gradients(networks[0].parameters(), 2.0)
    torch.nn.utils.clip_grad_norm_(networks[1].parameters(), 2.0)
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        torch.testing.assert_close(one.grad, other.grad, rtol=2e-6 if scale == 1e3 else 0, atol=0, equal_nan=True)
