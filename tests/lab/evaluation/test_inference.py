"""Predicting: the eight views, what averaging over them guarantees, and when it is used."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.evaluation.inference import decide_d4, dihedral, folded, predict
from lab.hardware import Hardware
from models import catalog
from tests.made import about, thin

HARDWARE = Hardware(torch.device("cpu"), "fp32")


def network() -> nn.Module:
    """A network with weights and norm statistics that tell the eight views of an image apart."""
    torch.manual_seed(3)
    made = thin("resnet18", 3).eval()
    for name, buffer in made.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    nn.init.normal_(made.fc.weight, std=5)
    return made


def batches(*sizes: int) -> list[tuple[Tensor, Tensor, np.ndarray]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 3, 32, 32), torch.zeros(size), np.arange(size)) for size in sizes]


# ---- the group


def test_eight_distinct_views_that_start_with_the_image_itself() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    views = dihedral(image)
    assert len(views) == 8 and torch.equal(views[0], image)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(views, 2))
    for view in views:
        assert torch.equal(view.flatten(2).sort().values, image.flatten(2))  # the same pixels, per image and channel


def test_the_views_close_under_composition() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    group = {tuple(view.flatten().tolist()) for view in dihedral(image)}
    for view in dihedral(image):
        assert {tuple(again.flatten().tolist()) for again in dihedral(view)} == group


# ---- norms folded into convolutions


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_a_folded_network_is_the_same_function_without_norms(model: str) -> None:
    torch.manual_seed(0)
    made = catalog.build(model, 3, 32).double().eval()
    for name, buffer in made.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    fused = folded(made)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        expected, found = made(images), fused(images)
    assert expected.std() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())  # a copy was folded


# ---- probabilities


def test_plain_prediction_is_the_softmax_in_the_order_of_the_batches() -> None:
    made, given = network(), batches(4, 4, 3)
    found = predict(made, given, HARDWARE)
    with torch.no_grad():
        expected = torch.cat([made(images).softmax(1) for images, _, _ in given]).numpy()
    assert found.shape == (11, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_network_left_in_training_mode_is_evaluated_all_the_same() -> None:
    made, given = network(), batches(4, 2)
    expected = predict(made, given, HARDWARE)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.train()
    np.testing.assert_array_equal(predict(made, given, HARDWARE), expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())  # no statistic moved


def test_averaging_is_the_mean_of_the_eight_softmaxes() -> None:
    made, given = network(), batches(2)
    with torch.no_grad():
        image = given[0][0]
        slow = [made(torch.rot90(mirror, k, (2, 3))).softmax(1) for mirror in (image, image.flip(2)) for k in range(4)]
    np.testing.assert_allclose(
        predict(made, given, HARDWARE, d4=True), torch.stack(slow).mean(0).numpy(), rtol=1e-4, atol=1e-6
    )


# ---- whether to average


@pytest.mark.parametrize(
    ("asked", "metrics", "use"),
    [
        ("on", {}, True),
        ("on", {"valid_accuracy": 0.9, "valid_accuracy_d4": 0.8}, True),
        ("off", {"valid_accuracy": 0.8, "valid_accuracy_d4": 0.9}, False),
        ("auto", {}, False),
        ("auto", {"valid_accuracy": 0.8}, False),  # the run has not ended
        ("auto", {"valid_accuracy": 0.8, "valid_accuracy_d4": 0.9, "valid_loss": 0.1, "valid_loss_d4": 0.2}, True),
        ("auto", {"valid_accuracy": 0.9, "valid_accuracy_d4": 0.8, "valid_loss": 0.2, "valid_loss_d4": 0.1}, False),
        ("auto", {"valid_accuracy": 0.9, "valid_accuracy_d4": 0.9, "valid_loss": 0.2, "valid_loss_d4": 0.1}, True),
        ("auto", {"valid_accuracy": 0.9, "valid_accuracy_d4": 0.9, "valid_loss": 0.2, "valid_loss_d4": 0.2}, False),
    ],
)
def test_averaging_is_used_as_asked_or_where_it_helped(
    asked: str, metrics: dict[str, float], use: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide_d4(about(metrics=metrics), asked) is use
    said = capsys.readouterr().out
    assert said.startswith(f"resnet18: D4 averaging {'on' if use else 'off'}, ")
    reason = "as asked" if asked != "auto" else "80.00 %" if len(metrics) == 4 and 0.8 in metrics.values() else ""
    assert reason in said
    assert decide_d4(about(metrics=metrics), asked, quiet=True) is use
    assert capsys.readouterr().out == ""
