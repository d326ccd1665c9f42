"""Prediction: the views of D4, fused batch norms, averaged probabilities, and when D4 averaging is used."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor, nn

from lab.evaluation.gradcam import explain
from lab.evaluation.inference import decide_d4, dihedral, folded, macro_scores, predict
from lab.hardware import Hardware
from lab.threads import Threads
from models import catalog
from tests.made import Capture, about, thin

HARDWARE = Hardware(torch.device("cpu"), "fp32")


def network() -> nn.Module:
    """A network whose logits differ between the eight views of an image."""
    torch.manual_seed(3)
    made = thin("resnet18", 3).eval()
    randomise_statistics(made)
    nn.init.normal_(made.fc.weight, std=5)
    return made


def randomise_statistics(network: nn.Module) -> None:
    """Random running means and variances of the batch norms."""
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2)


def batches(*sizes: int) -> list[tuple[Tensor, Tensor, np.ndarray]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 3, 32, 32), torch.zeros(size), np.arange(size)) for size in sizes]


# ---- D4


def test_the_eight_views_are_distinct_and_start_with_the_image() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    views = dihedral(image)
    assert len(views) == 8 and torch.equal(views[0], image)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(views, 2))
    for view in views:
        assert torch.equal(view.flatten(2).sort().values, image.flatten(2))  # the same pixels in each image and channel


def test_the_views_are_closed_under_composition() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    group = {tuple(view.flatten().tolist()) for view in dihedral(image)}
    for view in dihedral(image):
        assert {tuple(second.flatten().tolist()) for second in dihedral(view)} == group


# ---- batch norms fused into convolutions


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_fused_batch_norms_leave_the_function_unchanged(model: str) -> None:
    torch.manual_seed(0)
    made = catalog.build(model, 3, 32).double().eval()
    randomise_statistics(made)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    fused = folded(made)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        expected, logits = made(images), fused(images)
    assert expected.std() > 1e-6
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())  # a copy was changed


# ---- probabilities


def test_predictions_are_the_softmax_even_in_training_mode() -> None:
    made, feed = network(), batches(4, 4, 3)
    rows = predict(made, feed, HARDWARE)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with torch.no_grad():
        expected = torch.cat([made(images).softmax(1) for images, _, _ in feed]).numpy()
    assert rows.shape == (11, 3) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(predict(made.train(), feed, HARDWARE), rows)
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())  # statistics unchanged


def test_d4_averages_the_softmax_over_the_eight_views() -> None:
    made, feed = network(), batches(2)
    with torch.no_grad():
        image = feed[0][0]
        slow = [made(torch.rot90(mirror, k, (2, 3))).softmax(1) for mirror in (image, image.flip(2)) for k in range(4)]
    rows = predict(made, feed, HARDWARE, d4=True)
    np.testing.assert_allclose(rows, torch.stack(slow).mean(0).numpy(), rtol=1e-4, atol=1e-6)


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
def test_d4_is_used_as_asked_or_if_it_helped(asked: str, metrics: dict[str, float], use: bool, capsys: Capture) -> None:
    assert decide_d4(about(metrics=metrics), asked) is use
    output = capsys.readouterr().out
    assert output.startswith(f"resnet18: D4 averaging {'on' if use else 'off'}, ")
    reason = "as asked" if asked != "auto" else "80.00 %" if len(metrics) == 4 and 0.8 in metrics.values() else ""
    assert reason in output
    assert decide_d4(about(metrics=metrics), asked, quiet=True) is use
    assert capsys.readouterr().out == ""


# ---- threads


class Noted(Threads):
    """Notes how many images each comparison could pass through the network, and does so."""

    def __init__(self) -> None:
        super().__init__(2, fixed=False)
        self.seen: list[tuple[int, int]] = []

    def after_step(self, work: Callable[[], object], images: int) -> None:
        logits = work()
        assert isinstance(logits, Tensor) and not logits.requires_grad
        self.seen.append((images, len(logits)))


@pytest.mark.parametrize(("d4", "views"), [(False, 1), (True, 8)])
def test_threads_may_change_after_each_view_and_comparisons_change_no_prediction(d4: bool, views: int) -> None:
    made, threads = network(), Noted()
    found = predict(made, batches(9, 3), Hardware(torch.device("cpu"), "fp32", threads), d4)
    assert threads.seen == [(9, 8)] * views + [(3, 3)] * views
    np.testing.assert_array_equal(found, predict(made, batches(9, 3), HARDWARE, d4))


def test_a_heat_map_is_a_step_too() -> None:
    made, threads = network(), Noted()
    image = torch.rand(1, 3, 32, 32)
    stage = next(name for name, module in made.named_modules() if isinstance(module, nn.Conv2d))
    hardware = Hardware(torch.device("cpu"), "fp32", threads)
    row, cam = explain(made, image, 1, stage, hardware, d4=False)
    assert threads.seen == [(8, 8)]
    expected_row, expected = explain(made, image, 1, stage, HARDWARE, d4=False)
    np.testing.assert_array_equal(row, expected_row)
    assert torch.equal(cam, expected)


# ---- scores


@given(st.integers(2, 5), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_macro_scores_are_those_of_scikit_learn(classes: int, pairs: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array(values) % classes for values in zip(*pairs, strict=True))
    expected = precision_recall_fscore_support(
        labels, predictions, labels=np.unique(labels), average="macro", zero_division=0
    )
    np.testing.assert_allclose(macro_scores(np.eye(classes)[predictions], labels), expected[:3], rtol=1e-12)
