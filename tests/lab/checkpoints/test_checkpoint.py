"""Checkpoints come back bit for bit, and every wrong file is one sentence that says what was expected and what was found."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lab.checkpoints.checkpoint import (
    FORMAT,
    About,
    TrainingState,
    check_classes,
    load_network,
    load_optimizer,
    load_strictly,
    optimizer_tensors,
    part,
    read_about,
    read_state,
    read_tensors,
    save_checkpoint,
    trained_models,
)
from lab.errors import UserError
from lab.training.recipe import make_optimizer
from tests.made import about, save_thin, settings, thin

pytestmark = pytest.mark.usefixtures("thin_networks")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole best checkpoint of a (thin) resnet18."""
    torch.manual_seed(0)
    path = tmp_path / "weights" / "tiny" / "resnet18" / "best.safetensors"
    save_thin(path, about(), thin("resnet18"))
    return path


def refusal(path: Path, model: str | None = "resnet18") -> str:
    """The sentence by which a checkpoint is refused, by its header alone or else when its tensors are loaded."""
    with pytest.raises(UserError) as error:
        load_network(path, model)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and text.endswith(".")
    return text


# ---- round trip


def test_what_a_checkpoint_says_comes_back_equal(tmp_path: Path) -> None:
    said = about(
        model="resnet50",
        classes=["normal", "blast – µ"],
        data="tiny",
        metrics={"epoch": 2, "valid_accuracy": 2 / 3, "valid_loss": 1e-300},
        settings=asdict(settings(progressive=True)),
        history=[{"epoch": 1, "valid_accuracy": 0.1}, {"epoch": 2, "valid_accuracy": 1 / 3}],
        train_share=[0.25, 0.75],
        finished=True,
        records=[{"torch": "2.11.0", "git": "none"}],
    )
    state = TrainingState(2, 5, 1 / 3, 4.0, 0.25, 0.5, 8, {"scale": 65536.0, "_growth_tracker": 3})
    save_checkpoint(tmp_path / "last.safetensors", said, {}, state)
    assert read_about(tmp_path / "last.safetensors", "resnet50") == said
    assert read_state(tmp_path / "last.safetensors") == state
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_history_saved_under_the_old_names_is_read_under_todays(tmp_path: Path) -> None:
    row = {"epoch": 1, "train_accuracy": 0.5, "test_accuracy": 0.75, "train_loss": 0.6, "test_loss": 0.4}
    save_checkpoint(tmp_path / "last.safetensors", about(history=[row]), {})
    expected = {"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": 0.75, "train_loss": 0.6, "valid_loss": 0.4}
    assert read_about(tmp_path / "last.safetensors").history == [expected]


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = torch.randn(4)
    tensors = {
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).t(),
        "shared": shared,
        "shared_too": shared[1:],
        "half": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(3),
        "strange": torch.tensor([float("nan"), float("inf"), -0.0]),
        "trained": nn.Parameter(torch.randn(2)),
    }
    save_checkpoint(tmp_path / "best.safetensors", about(), tensors)
    found = read_tensors(tmp_path / "best.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        bits = [value.detach().flatten().view(torch.uint8) for value in (found[name], tensor)]
        assert torch.equal(*bits), name


def test_a_network_comes_back_ready_to_predict(saved: Path) -> None:
    torch.manual_seed(0)
    original = thin("resnet18")
    network, said = load_network(saved, "resnet18")
    assert said.preprocessing == about().preprocessing
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    for name, tensor in original.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path: Path, kind: str) -> None:
    """Channels-last weights as in training: the file holds tensors contiguous, and the layouts must meet again."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = thin("resnet18").to(memory_format=torch.channels_last)
        return network, make_optimizer(network, settings(optimizer=kind), "fp32")

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            torch.manual_seed(number)
            optimizer.zero_grad()
            network(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()

    whole, whole_optimizer = made()
    steps(whole, whole_optimizer, range(5))

    first, first_optimizer = made()
    steps(first, first_optimizer, range(3))
    state = {f"train.{name}": tensor for name, tensor in first.state_dict().items()}
    save_checkpoint(tmp_path / "last.safetensors", about(), state | optimizer_tensors(first_optimizer))

    second, second_optimizer = made()
    tensors = read_tensors(tmp_path / "last.safetensors")
    load_strictly(second, part(tensors, "train."), tmp_path)
    load_optimizer(second_optimizer, tensors, tmp_path, begun=True)
    steps(second, second_optimizer, range(3, 5))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    expected, found = optimizer_tensors(whole_optimizer), optimizer_tensors(second_optimizer)
    assert expected.keys() == found.keys() and len(expected) > 0
    assert all(torch.equal(expected[name], found[name]) for name in expected)


# ---- refusals


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    assert "python train.py --model resnet50" in refusal(tmp_path / "none.safetensors", "resnet50")
    tmp_path.joinpath("folder.safetensors").mkdir()
    assert "no such checkpoint" in refusal(tmp_path / "folder.safetensors")


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, how: str) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "best.safetensors"
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"model": bomb}, path)
    assert "expected a checkpoint in safetensors format, found something else" in refusal(path)
    assert not bomb.target.exists()
    pickle.loads(pickle.dumps(bomb))  # the bomb is a live one
    assert bomb.target.exists()


@pytest.mark.parametrize("data", [b"", b"{}", b"just some text, long enough for a header's length", bytes(64)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "best.safetensors").write_bytes(data)
    text = refusal(tmp_path / "best.safetensors")
    assert "expected" in text and "found" in text


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    assert "expected a checkpoint in safetensors format" in refusal(saved)


def test_another_depth_is_refused(saved: Path) -> None:
    assert "expected weights of resnet50, found weights of resnet18" in refusal(saved, "resnet50")


def header(path: Path, **entries: str) -> Path:
    """Rewrite a checkpoint's header, keeping its tensors."""
    safetensors.torch.save_file(read_tensors(path), path, metadata=entries)
    return path


WRONG = [None, -1, 1.5, "x", True, [], [1], {}, {"a": "b"}, [{"a": "b"}]]


@pytest.mark.parametrize(
    "name", [field.name for field in (*fields(About), *fields(TrainingState)) if field.name != "preprocessing"]
)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_every_field_is_of_its_kind_or_refused(saved: Path, name: str, value: Any) -> None:
    """Never a traceback, here or later, where the field is used."""
    usual = asdict(about()) | asdict(TrainingState())
    header(saved, format=FORMAT, about=json.dumps({**usual, name: value}))
    try:
        found = (asdict(read_about(saved)) | asdict(read_state(saved)))[name]
    except UserError as error:
        assert "the checkpoint's description is damaged" in str(error)
    else:
        kinds = (int, float) if isinstance(usual[name], float) else (type(1 if name == "at_once" else usual[name]),)
        assert type(found) in kinds or (name == "at_once" and found is None)


@pytest.mark.parametrize("lost", ["optimizer.0.momentum_buffer", "optimizer."])
def test_an_optimizer_without_its_momentum_is_refused(lost: str) -> None:
    network = thin("resnet18")
    optimizer = make_optimizer(network, settings(), "fp32")
    network(torch.ones(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    tensors = {name: tensor for name, tensor in optimizer_tensors(optimizer).items() if not name.startswith(lost)}
    with pytest.raises(
        UserError, match=r"last: expected the optimizer's state of 14 parameters, found another or a part"
    ):
        load_optimizer(make_optimizer(network, settings(), "fp32"), tensors, Path("last"), begun=True)


def test_weights_that_are_no_numbers_are_refused(saved: Path) -> None:
    network = thin("resnet18")
    with torch.no_grad():
        network.fc.bias[0] = float("nan")
    save_thin(saved, about(), network)
    assert "fc.bias holds values that are no finite numbers; this network cannot predict" in refusal(saved)


def test_another_format_is_refused(saved: Path) -> None:
    said = json.dumps(asdict(about()))
    assert f"expected format '{FORMAT}', found 'some other 7'" in refusal(
        header(saved, format="some other 7", about=said)
    )
    later = refusal(header(saved, format="leukemia-resnet checkpoint 2", about=said))
    assert "found 'leukemia-resnet checkpoint 2'; another version of this package wrote it, use that one" in later
    assert f"expected format '{FORMAT}', found 'none'" in refusal(header(saved, about=said))
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, saved)  # someone else's weights, without a header
    assert "found 'none'" in refusal(saved)


def test_what_a_later_version_says_besides_is_passed_over(saved: Path) -> None:
    header(saved, format=FORMAT, about=json.dumps({**asdict(about()), "mood": "good"}))
    assert read_about(saved, "resnet18") == about()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        json.dumps({**asdict(about()), "preprocessing": {"window": 32}}),
        json.dumps({**asdict(about()), "preprocessing": {**asdict(about().preprocessing), "locate": "corner"}}),
    ],
)
def test_a_damaged_description_is_refused(saved: Path, said: str) -> None:
    assert "description is damaged" in refusal(header(saved, format=FORMAT, about=said))


def test_tensors_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_thin(path, about(classes=["a", "b", "c"]), thin("resnet18", 2))
    text = refusal(path)
    assert "2 tensors do not fit" in text and "fc.bias: expected (3,), found (2,)" in text


def test_missing_and_unknown_tensors_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "best.safetensors", thin("resnet18").state_dict()

    def refused(changed: dict[str, Tensor]) -> str:
        save_checkpoint(path, about(), {f"model.{name}": tensor for name, tensor in changed.items()})
        return refusal(path)

    without = {name: tensor for name, tensor in state.items() if name != "bn1.running_var"}
    assert "bn1.running_var: expected (4,), found none" in refused(without)
    assert "zoo.weight: expected none, found (2,)" in refused(state | {"zoo.weight": torch.zeros(2)})
    assert "do not fit" in refused({})


def test_other_classes_are_refused(tmp_path: Path) -> None:
    said = about(classes=["normal", "leukemia blast"])
    check_classes(tmp_path, said, ["normal", "leukemia blast"])
    for classes in (["normal", "blast"], ["leukemia blast", "normal"], ["normal"], ["a", "b", "c"]):
        with pytest.raises(UserError) as error:
            check_classes(tmp_path, said, classes)
        assert str(said.classes) in str(error.value) and f"{len(classes)}: {classes}" in str(error.value)


# ---- finding


def test_trained_models_are_listed_from_the_shallowest(tmp_path: Path) -> None:
    for name in ("resnet152", "resnet18", "resnet50", "resnet101"):
        save_thin(tmp_path / name / "best.safetensors", about(name), thin(name))
    (tmp_path / "resnet34").mkdir()
    (tmp_path / "resnet34" / "last.safetensors").touch()
    assert trained_models(tmp_path) == ["resnet18", "resnet50", "resnet101", "resnet152"]
    with pytest.raises(UserError, match="no trained model there"):
        trained_models(tmp_path / "nowhere")
