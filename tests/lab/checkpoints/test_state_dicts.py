"""State dicts from elsewhere: the usual forms load, hostile and wrong files are refused in one sentence, no code runs."""

from __future__ import annotations

import io
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
from lab.checkpoints.state_dicts import NORMALISATIONS, WRAPPERS, read_state, recognise
from lab.errors import UserError
from models import catalog
from studies import import_weights
from tests.made import BEST, Bomb, command, inside, make_data

MEAN, STD = (np.array(values) for values in NORMALISATIONS["imagenet"])


def peer(depth: int = 18, classes: int = 2) -> torch.nn.Module:
    """A peer's network: torchvision's."""
    torch.manual_seed(depth)
    return getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=classes).eval()


def refusal(path: Path, content: Any = None, classes: int = 2) -> str:
    """The message by which a file is refused, after saving ``content`` in it."""
    if content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        recognise(path, read_state(path), classes, 64)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and text.endswith(".")
    return text


# ---- accepted


@pytest.mark.parametrize("model", catalog.resnets())
def test_every_depth_is_recognised_by_its_tensors(tmp_path: Path, model: str) -> None:
    with torch.device("meta"):
        shapes = catalog.build(model, 3, 64).state_dict()
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in shapes.items()}
    assert recognise(tmp_path, state, 3, 64) == model


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.model.encoder."])
def test_wrappers_and_prefixes_are_removed(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    names = ("conv1.weight", "layer1.0.conv1.weight", "fc.bias")
    state = {f"{prefix}{name}": torch.ones(2, 3, dtype=torch.half) for name in names}
    path = tmp_path / "peer.pth"
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state, "optimizer": {"state": {}}}, path)
    assert read_state(path).keys() == set(names)


def test_old_files_and_safetensors(tmp_path: Path) -> None:
    """The file format before PyTorch 1.6; norms without batch counters, as before 0.4.1; half precision."""
    state = {name: tensor for name, tensor in peer().half().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        found = read_state(tmp_path / name)
        assert recognise(tmp_path / name, found, 2, 64) == "resnet18"
        catalog.build("resnet18", 2, 64).load_state_dict(found, strict=True)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}


# ---- refused


@pytest.mark.parametrize("form", ["pickle", "torch", "old torch", "inside a state dict"])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, form: str) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "bomb.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        content = {"fc.weight": torch.ones(2), "fc.bias": bomb} if form == "inside a state dict" else bomb
        torch.save(content, path, _use_new_zipfile_serialization=form != "old torch")
    assert "anything else could run code" in refusal(path)
    assert not bomb.target.exists()


RECURSIVE: dict[str, Any] = {}
RECURSIVE["model"] = RECURSIVE
KERNEL = "layer1.0.conv1.weight"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (RECURSIVE, "found a dictionary with other values: "),
        ({"epoch": 3}, "found a dictionary with other values: epoch (int)"),
        ([torch.ones(1)], "expected a state dict, names and tensors, found list"),
        (torch.nn.Linear(2, 2), "contains torch.nn.modules.linear.Linear, a Python object such as a whole model"),
        ({"acc": np.float64(1)}, "multiarray.scalar, a number or an array of numpy; nothing but tensors"),
        ({"model.conv1.weight": torch.ones(1), "loss.w": torch.ones(1)}, "begin with model., and loss.w do not"),
        ({"fc.weight": torch.ones(2, 2, device="meta")}, "fc.weight is not a plain tensor of real numbers"),
        ({"fc.weight": torch.ones(2, 2).to_sparse()}, "fc.weight is not a plain tensor of real numbers"),
        ({"fc.weight": torch.ones(2, 2, dtype=torch.complex64)}, "fc.weight is not a plain tensor of real numbers"),
        ({"fc.weight": torch.ones(1).expand(10**6, 10**6)}, "fits none of resnet18"),  # 4 TB, in a small file
    ],
    ids=["recursive", "no tensors", "list", "module", "numpy", "foreign", "meta", "sparse", "complex", "huge"],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    assert reason in refusal(tmp_path / "peer.pth", content)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("w.pth", b"", "is empty"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 44\n", "a Git LFS pointer"),
        ("w.pth", b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page, not the weights"),
        ("w.pth", b"PK\x03\x04" + bytes(99), "is truncated; download it again"),
        ("w.safetensors", b"PK\x03\x04" + bytes(99), "is damaged, or is not in the safetensors format"),
    ],
)
def test_files_that_are_no_weights_are_recognised(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason in refusal(tmp_path / name)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "peer.pth", peer().state_dict()
    assert "its classifier has 2 classes, the data set 4" in refusal(path, state, classes=4)
    difference = f"1 tensor differs, first {KERNEL}: expected (64, 64, 3, 3), found (64, 64, 5, 5)"
    message = refusal(path, {**state, KERNEL: torch.zeros(64, 64, 5, 5)})
    assert f"of resnet18, the closest, {difference}" in message
    message = refusal(path, {**state, "fc.bias": torch.tensor([float("nan"), 0.0])})
    assert "fc.bias contains values that are not finite" in message
    assert "cannot be read (No such file" in refusal(tmp_path / "none.pth")


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Truncated files, and files with some other bytes."""
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.ones(2, 3)}, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    whole = buffer.getvalue()
    cut = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for index in data.draw(st.lists(st.integers(0, max(len(cut) - 1, 0)), max_size=5)) if cut else []:
        cut[index] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "peer.pth"
    path.write_bytes(bytes(cut))
    refusal(path)  # a file that can still be read has no ResNet


def test_a_zip_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "peer.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000_000))
    assert "cannot be read as tensors" in refusal(tmp_path / "peer.pth")


# ---- the command


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    with inside(tmp_path, catalog.build, figures=False):
        make_data(tmp_path / "csv" / "tiny")
        yield tmp_path


MACHINE = ("--device", "cpu", "--precision", "fp32")


def test_imported_weights_predict_like_the_peer(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The peer's code: Pillow, resized, normalised, torchvision's network."""
    network = peer()
    torch.save({"model_state_dict": network.state_dict()}, work / "peer.pth")
    command(import_weights, "peer.pth", "--data", "tiny", "--size", "64", *MACHINE)
    output = capsys.readouterr().out
    assert "peer.pth: resnet18, 2 classes: normal, leukemia blast" in output
    assert "the central 48 px scaled to 64 px" in output
    about = read_about(BEST, "resnet18")
    valid = pd.read_csv(work / "csv" / "tiny" / "valid.csv")
    images = []
    for path in valid["Path"]:
        with Image.open(work / "csv" / "tiny" / path) as image:
            scaled = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)) / 255
        images.append(torch.tensor((scaled - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1))
    labels = torch.tensor(valid["label"].to_numpy())
    with torch.no_grad():
        logits = network(torch.stack(images))
    assert about.metrics["valid_accuracy"] == (logits.argmax(1) == labels).double().mean()
    loss = torch.nn.functional.cross_entropy(logits.double(), labels)
    assert about.metrics["valid_loss"] == pytest.approx(float(loss), rel=1e-4)
    command(predict, "--data", "tiny", *MACHINE)
    assert (work / "csv" / "tiny" / "submission_resnet18.csv").is_file()


def test_existing_checkpoints_are_replaced_only_with_fresh(work: Path) -> None:
    torch.save(peer().state_dict(), work / "peer.pth")
    options = ("peer.pth", "--data", "tiny", "--size", "32", *MACHINE)
    command(import_weights, *options)
    before = BEST.read_bytes()
    with pytest.raises(UserError, match=r"best.safetensors is there already; --fresh replaces it"):
        command(import_weights, *options)
    with pytest.raises(UserError, match=r"exists without last.safetensors"):
        command(train, "--data", "tiny", "--size", "32", "--device", "cpu")
    assert BEST.read_bytes() == before
    command(import_weights, *options, "--fresh", "--normalise", "none")
    assert load_network(BEST, "resnet18")[1].preprocessing.mean == (0.0, 0.0, 0.0)


def test_weights_are_not_imported_into_a_training(work: Path) -> None:
    torch.save(peer().state_dict(), work / "peer.pth")
    BEST.parent.mkdir(parents=True)
    for name in ("last", "member_2"):
        path = BEST.with_name(f"{name}.safetensors")
        path.touch()
        with pytest.raises(UserError, match=r"contains a training or an average; give other --weights"):
            command(import_weights, "peer.pth", "--data", "tiny", "--size", "32", "--fresh", *MACHINE)
        path.unlink()


@pytest.mark.parametrize("options", [("--size", "16"), ("--window", "0")])
def test_impossible_sizes_are_refused(work: Path, options: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"--size must be from 32 to 4,096, and --window from 1 to 16,384"):
        command(import_weights, "peer.pth", "--data", "tiny", *options)
