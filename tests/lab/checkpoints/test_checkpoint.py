"""Checkpoints are read back bit for bit, and each wrong file is refused in one sentence with what was expected and found."""

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
)
from lab.checkpoints.headers import chosen_data, trained_models
from lab.cpu.convolutions import Convolution2d
from lab.errors import UserError
from lab.training.recipe import make_optimizer
from tests.made import BEST, Bomb, about, save_thin, settings, thin

pytestmark = pytest.mark.usefixtures("thin_networks")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A best checkpoint of a thin resnet18."""
    save_thin(tmp_path / BEST, about(), thin("resnet18"))
    return tmp_path / BEST


def refusal(path: Path, model: str | None = "resnet18") -> str:
    """The message by which a checkpoint is refused."""
    with pytest.raises(UserError) as error:
        load_network(path, model)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and text.endswith(".")
    return text


# ---- round trip


def test_a_description_is_read_back(tmp_path: Path) -> None:
    saved = about(
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
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, saved, {}, state)
    assert read_about(path, "resnet50") == saved and read_state(path) == state
    assert list(tmp_path.iterdir()) == [path]


def test_former_names_of_a_historys_columns_are_replaced(tmp_path: Path) -> None:
    row = {"epoch": 1, "train_accuracy": 0.5, "test_accuracy": 0.75, "train_loss": 0.6, "test_loss": 0.4}
    save_checkpoint(tmp_path / "last.safetensors", about(history=[row]), {})
    expected = {"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": 0.75, "train_loss": 0.6, "valid_loss": 0.4}
    assert read_about(tmp_path / "last.safetensors").history == [expected]


def test_tensors_are_read_back_bit_for_bit(tmp_path: Path) -> None:
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


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Two dictionaries of tensors are equal bit for bit."""
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_loaded_network_is_ready_to_predict(saved: Path) -> None:
    network, description = load_network(saved, "resnet18")
    assert description == about()
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert_same(network.state_dict(), part(read_tensors(saved), "model."))


def test_a_loaded_network_has_the_algorithms_of_its_training(tmp_path: Path) -> None:
    table = {"fp32 3x3/1 4-4 16x16": "winograd winograd product"}
    save_thin(tmp_path / BEST, about(algorithms=table), thin("resnet18"))
    network, description = load_network(tmp_path / BEST, "resnet18")
    tables = [module.table for module in network.modules() if isinstance(module, Convolution2d)]
    assert description.algorithms == table and tables and all(found == table for found in tables)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "adam", "rmsprop"])
def test_a_loaded_optimizer_continues_bit_for_bit(tmp_path: Path, kind: str) -> None:
    """With channels-last weights, as in training, although tensors in the file are contiguous."""

    last = tmp_path / "last.safetensors"

    def train(steps: range) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = thin("resnet18").to(memory_format=torch.channels_last)
        optimizer = make_optimizer(network, settings(optimizer=kind), "fp32")
        if steps.start:
            tensors = read_tensors(last)
            load_strictly(network, part(tensors, "train."), last)
            load_optimizer(optimizer, tensors, last, begun=True)
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            network(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()
        state = {f"train.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
        return state | optimizer_tensors(optimizer)

    uninterrupted = train(range(5))
    save_checkpoint(last, about(), train(range(3)))
    assert_same(train(range(3, 5)), uninterrupted)
    assert any(name.startswith("optimizer.") for name in uninterrupted)


# ---- refusals


def test_the_message_for_a_missing_file_has_the_command_that_writes_it(tmp_path: Path) -> None:
    assert "python train.py --model resnet50" in refusal(tmp_path / "none.safetensors", "resnet50")
    tmp_path.joinpath("folder.safetensors").mkdir()
    assert "no such checkpoint" in refusal(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, how: str) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "best.safetensors"
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"model": bomb}, path)
    assert "expected a checkpoint in safetensors format, found something else" in refusal(path)
    assert not bomb.target.exists()
    pickle.loads(pickle.dumps(bomb))  # it works if it is unpickled
    assert bomb.target.exists()


def test_a_file_without_access_is_named_as_such(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    assert "you may not read this file" in refusal(saved)


OTHER_FILES = [b"", b"{}", b"just some text, long enough for a header's length", bytes(64)]


@pytest.mark.parametrize("data", [*OTHER_FILES, 0.001, 0.1, 0.5, 0.999], ids=repr)
def test_other_files_and_truncated_ones_are_refused(saved: Path, data: bytes | float) -> None:
    """A number is the share of a checkpoint's bytes that is left."""
    whole = saved.read_bytes()
    saved.write_bytes(data if isinstance(data, bytes) else whole[: int(data * len(whole))])
    assert "expected a checkpoint in safetensors format" in refusal(saved)


def header(path: Path, **entries: str) -> Path:
    """Replace a checkpoint's header and keep its tensors."""
    safetensors.torch.save_file(read_tensors(path), path, metadata=entries)
    return path


WRONG = [None, -1, 1.5, "x", True, [], [1], {}, {"a": "b"}, [{"a": "b"}]]


@pytest.mark.parametrize(
    "name", [field.name for field in (*fields(About), *fields(TrainingState)) if field.name != "preprocessing"]
)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_field_of_another_type_is_refused(saved: Path, name: str, value: Any) -> None:
    """Otherwise there would be a traceback later, when the field is used."""
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
    message = "last: expected the optimizer's state of 14 parameters, found another or a part"
    with pytest.raises(UserError, match=message):
        load_optimizer(make_optimizer(network, settings(), "fp32"), tensors, Path("last"), begun=True)


def test_another_depth_and_another_format_are_refused(saved: Path) -> None:
    assert "expected weights of resnet50, found weights of resnet18" in refusal(saved, "resnet50")
    assert f"expected format '{FORMAT}', found 'some other 7'." in refusal(header(saved, format="some other 7"))
    later = refusal(header(saved, format="leukemia-resnet checkpoint 2"))
    assert "found 'leukemia-resnet checkpoint 2'; another version of this package wrote it, use that one" in later
    assert f"expected format '{FORMAT}', found 'none'." in refusal(header(saved))


def test_unknown_fields_of_a_later_version_are_ignored(saved: Path) -> None:
    header(saved, format=FORMAT, about=json.dumps({**asdict(about()), "mood": "good"}))
    assert read_about(saved, "resnet18") == about()


@pytest.mark.parametrize(
    "description",
    [
        *("", "not JSON", "[]", "{}", '"model"'),
        json.dumps({**asdict(about()), "preprocessing": {"window": 32}}),
        json.dumps({**asdict(about()), "preprocessing": {**asdict(about().preprocessing), "locate": "corner"}}),
    ],
)
def test_a_damaged_description_is_refused(saved: Path, description: str) -> None:
    assert "description is damaged" in refusal(header(saved, format=FORMAT, about=description))


def test_tensors_that_do_not_fit_are_refused(saved: Path) -> None:
    def refused(changed: dict[str, Tensor], **description: Any) -> str:
        save_checkpoint(saved, about(**description), {f"model.{name}": tensor for name, tensor in changed.items()})
        return refusal(saved)

    state = thin("resnet18").state_dict()
    three = refused(state, classes=["a", "b", "c"])
    assert "2 tensors do not fit" in three and "fc.bias: expected (3,), found (2,)" in three
    assert "zoo.weight: expected none, found (2,)" in refused(state | {"zoo.weight": torch.zeros(2)})
    assert "do not fit" in refused({})
    message = "fc.bias contains values that are not finite; this network cannot predict"
    assert message in refused(state | {"fc.bias": torch.tensor([0.0, float("nan")])})
    del state["bn1.running_var"]
    assert "bn1.running_var: expected (4,), found none" in refused(state)


@pytest.mark.parametrize("classes", [["normal", "blast"], ["leukemia blast", "normal"], ["normal"], ["a", "b", "c"]])
def test_other_classes_are_refused(classes: list[str]) -> None:
    description = about(classes=["normal", "leukemia blast"])
    check_classes(Path("best"), description, description.classes)
    with pytest.raises(UserError) as error:
        check_classes(Path("best"), description, classes)
    assert str(description.classes) in str(error.value) and f"{len(classes)}: {classes}" in str(error.value)


def test_trained_models_are_in_the_catalogues_order(tmp_path: Path) -> None:
    for name in ("resnet152", "resnet18", "resnet50", "resnet101"):
        save_thin(tmp_path / name / "best.safetensors", about(name), thin(name))
    (tmp_path / "resnet34").mkdir()
    (tmp_path / "resnet34" / "last.safetensors").touch()
    assert trained_models(tmp_path) == ["resnet18", "resnet50", "resnet101", "resnet152"]
    with pytest.raises(UserError, match="no trained model there"):
        trained_models(tmp_path / "nowhere")


def hold(*names: str) -> Path:
    """The folder of weights in the working directory, with trained data sets of these names."""
    for name in names:
        path = Path("weights", name, "resnet18", "best.safetensors")
        path.parent.mkdir(parents=True)
        path.touch()
    return Path("weights")


def test_the_only_trained_data_set_is_taken_without_the_option(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen_data("lab3", False, Path("weights")) == "lab3"
    weights = hold("sample")
    assert chosen_data("lab3", True, weights) == "lab3"
    assert capsys.readouterr().out == ""
    assert chosen_data("lab3", False, weights) == "sample"
    reason = "the only trained data set in weights, and there are no lists and no weights of lab3"
    assert capsys.readouterr().out == f"--data sample: {reason}\n"
    hold("pbc8")
    with pytest.raises(UserError, match="no weights of lab3; weights holds: pbc8, sample; choose one with --data"):
        chosen_data("lab3", False, weights)
    (working_folder / "csv").mkdir()
    (working_folder / "csv" / "train.csv").touch()
    assert chosen_data("lab3", False, weights) == "lab3"  # lists that are not trained yet
    (working_folder / "csv" / "train.csv").unlink()
    hold("lab3")
    assert chosen_data("lab3", False, weights) == "lab3"


def test_no_trained_model_names_the_data_sets_that_have_one(working_folder: Path) -> None:
    weights = hold("sample", "pbc8")
    with pytest.raises(UserError, match=r"weights holds: pbc8, sample \(did you mean --data sample\?\); `python train"):
        trained_models(weights / "sampel")
