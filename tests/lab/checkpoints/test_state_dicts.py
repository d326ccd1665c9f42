"""Weights from elsewhere: what peers save loads, what is hostile or wrong is refused in one sentence, and nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import predict
import train
from lab.checkpoints.checkpoint import load_network, read_about
from lab.checkpoints.state_dicts import NORMALISATIONS, PREFIXES, WRAPPERS, read_state, recognise
from lab.errors import UserError
from models import catalog
from studies import import_weights
from tests.made import command, inside, make_data

MEAN, STD = (np.array(values) for values in NORMALISATIONS["imagenet"])


def peer(depth: int = 18, classes: int = 2) -> torch.nn.Module:
    """torchvision's network, as a peer trains it."""
    torch.manual_seed(depth)
    return getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=classes).eval()


def refusal(path: Path, classes: int = 2) -> str:
    """The sentence by which a file is refused."""
    with pytest.raises(UserError) as error:
        recognise(path, read_state(path), classes, 64)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and text.endswith(".")
    return text


# ---- what peers save


@pytest.mark.parametrize("model", catalog.resnets())
def test_every_depth_is_recognised_by_its_tensors(tmp_path: Path, model: str) -> None:
    with torch.device("meta"):
        shapes = catalog.build(model, 3, 64).state_dict()
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in shapes.items()}
    assert recognise(tmp_path, state, 3, 64) == model


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
@pytest.mark.parametrize("prefix", ["", *PREFIXES, "module.model."])
def test_the_ways_in_which_people_save(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = {f"{prefix}fc.weight": torch.ones(2, 3), f"{prefix}fc.bias": torch.ones(2, dtype=torch.half)}
    path = tmp_path / "peer.pth"
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state, "optimizer": {"state": {}}}, path)
    found = read_state(path)
    assert found.keys() == {"fc.weight", "fc.bias"}


def test_old_files_and_safetensors(tmp_path: Path) -> None:
    """The format before 1.6; and norms that count no batches, as before 0.4.1."""
    state = {name: tensor for name, tensor in peer().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        found = read_state(tmp_path / name)
        assert recognise(tmp_path / name, found, 2, 64) == "resnet18"
        catalog.build("resnet18", 2, 64).load_state_dict(found, strict=True)


# ---- what is refused


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("form", ["pickle", "torch", "old torch", "inside a state dict"])
def test_a_pickle_bomb_does_not_go_off(tmp_path: Path, form: str) -> None:
    fuse, path = tmp_path / "went-off", tmp_path / "bomb.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(fuse), protocol=2))
    elif form == "inside a state dict":
        torch.save({"fc.weight": torch.ones(2), "fc.bias": Bomb(fuse)}, path)
    else:
        torch.save(Bomb(fuse), path, _use_new_zipfile_serialization=form == "torch")
    assert "anything else could run code" in refusal(path)
    assert not fuse.exists()


def test_a_whole_pickled_network_is_refused_with_what_to_ask_for(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "peer.pth")
    assert "ask for the file that torch.save(model.state_dict(), …) writes" in refusal(tmp_path / "peer.pth")


def itself() -> dict[str, Any]:
    """A dictionary that holds itself."""
    made: dict[str, Any] = {}
    made["model"] = made
    return made


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (itself(), "a dictionary of other things than tensors"),
        ({"fc.weight": torch.ones(2, 2, device="meta")}, "fc.weight is not a plain tensor of real numbers"),
        ({"fc.weight": torch.ones(2, 2).to_sparse()}, "fc.weight is not a plain tensor of real numbers"),
        ({"fc.weight": torch.ones(2, 2, dtype=torch.complex64)}, "fc.weight is not a plain tensor of real numbers"),
        ({"fc.weight": torch.ones(1).expand(10**6, 10**6)}, "fits none of resnet18"),  # 4 TB, in a small file
    ],
    ids=["itself", "meta", "sparse", "complex", "huge"],
)
def test_odd_tensors_are_refused(tmp_path: Path, content: dict[str, Any], reason: str) -> None:
    torch.save(content, tmp_path / "peer.pth")
    assert reason in refusal(tmp_path / "peer.pth")


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    torch.save(peer().half().state_dict(), tmp_path / "peer.pth")
    state = read_state(tmp_path / "peer.pth")
    assert recognise(tmp_path / "peer.pth", state, 2, 64) == "resnet18"
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())


def test_other_networks_are_refused_with_what_was_expected_and_found(tmp_path: Path) -> None:
    path = tmp_path / "peer.pth"
    torch.save(peer(classes=2).state_dict(), path)
    assert "its classifier has 2 classes, the data set 4" in refusal(path, classes=4)
    torch.save({**peer().state_dict(), "layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}, path)
    said = "1 tensor differs, first layer1.0.conv1.weight: expected (64, 64, 3, 3), found (64, 64, 5, 5)"
    assert f"of resnet18, the closest, {said}" in refusal(path)
    torch.save({**peer().state_dict(), "fc.bias": torch.tensor([float("nan"), 0.0])}, path)
    assert "fc.bias holds values that are no finite numbers" in refusal(path)
    torch.save({"epoch": 3}, path)
    assert "found a dictionary of other things than tensors" in refusal(path)
    torch.save([torch.ones(1)], path)
    assert "expected a state dict, names and tensors, found list" in refusal(path)
    assert "cannot be read (No such file" in refusal(tmp_path / "none.pth")


@settings(max_examples=60)
@given(st.data())
def test_damage_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Files cut off, and files with other bytes somewhere."""
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.ones(2, 3)}, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    whole = buffer.getvalue()
    cut = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, max(len(cut) - 1, 0)), max_size=5)) if cut else []:
        cut[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "peer.pth"
    path.write_bytes(bytes(cut))
    refusal(path)  # whatever is left of it is no ResNet


def test_a_zip_that_claims_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "peer.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000_000))
    assert "cannot be opened as tensors" in refusal(tmp_path / "peer.pth")


# ---- the command


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    with inside(tmp_path, catalog.build, figures=False):
        make_data(tmp_path / "csv" / "tiny")
        yield tmp_path


MACHINE = ("--device", "cpu", "--precision", "fp32")


def test_imported_weights_predict_as_the_peer_does(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the peer's own code: Pillow, resized, normalised, torchvision's network."""
    network = peer()
    torch.save({"model_state_dict": network.state_dict()}, work / "peer.pth")
    command(import_weights, "peer.pth", "--data", "tiny", "--size", "64", *MACHINE)
    said = capsys.readouterr().out
    assert (
        "peer.pth: resnet18, 2 classes: normal, leukemia blast" in said and "the central 48 px scaled to 64 px" in said
    )
    best = work / "weights" / "tiny" / "resnet18" / "best.safetensors"
    about = read_about(best, "resnet18")
    valid = pd.read_csv(work / "csv" / "tiny" / "valid.csv")
    answers = []
    for path in valid["Path"]:
        with Image.open(work / "csv" / "tiny" / path) as image:
            scaled = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)) / 255
        with torch.no_grad():
            answers.append(
                network(torch.tensor((scaled - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1)[None])[0].numpy()
            )
    expected = np.stack(answers)
    accuracy = (expected.argmax(axis=1) == valid["label"]).mean()
    assert about.metrics["valid_accuracy"] == accuracy
    shifted = np.exp(expected - expected.max(axis=1, keepdims=True))
    loss = -np.log((shifted / shifted.sum(axis=1, keepdims=True))[np.arange(len(valid)), valid["label"]]).mean()
    assert about.metrics["valid_loss"] == pytest.approx(loss, rel=1e-4)
    command(predict, "--data", "tiny", *MACHINE)
    assert (work / "csv" / "tiny" / "submission_resnet18.csv").is_file()


def test_nothing_that_is_there_is_replaced_unasked(work: Path) -> None:
    torch.save(peer().state_dict(), work / "peer.pth")
    options = ("peer.pth", "--data", "tiny", "--size", "32", *MACHINE)
    command(import_weights, *options)
    best = work / "weights" / "tiny" / "resnet18" / "best.safetensors"
    before = best.read_bytes()
    with pytest.raises(UserError, match=r"best.safetensors is there already; --fresh replaces it"):
        command(import_weights, *options)
    with pytest.raises(UserError, match=r"is there without last.safetensors"):
        command(train, "--data", "tiny", "--size", "32", "--device", "cpu")
    assert best.read_bytes() == before
    command(import_weights, *options, "--fresh", "--normalise", "none")
    assert load_network(best, "resnet18")[1].preprocessing.mean == (0.0, 0.0, 0.0)


def test_a_training_is_not_given_a_foreign_best(work: Path) -> None:
    torch.save(peer().state_dict(), work / "peer.pth")
    folder = work / "weights" / "tiny" / "resnet18"
    for name in ("last", "member_2"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.safetensors").touch()
        with pytest.raises(UserError, match=r"holds a training or an average; give other --weights"):
            command(import_weights, "peer.pth", "--data", "tiny", "--size", "32", "--fresh", *MACHINE)
        (folder / f"{name}.safetensors").unlink()


@pytest.mark.parametrize("words", [("--size", "16"), ("--window", "0")])
def test_impossible_sizes_are_refused(work: Path, words: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"--size must be from 32 to 4,096, and --window from 1 to 16,384"):
        command(import_weights, "peer.pth", "--data", "tiny", *words)
