"""A new head on frozen features and fine-tuning: EfficientNet-Lite0 with its real weights, on generated cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import Tensor, nn

from lab.checkpoints.checkpoint import part, read_tensors, save_checkpoint
from lab.data.lists import read_data_set, read_lists
from lab.errors import UserError
from lab.kaggle.submissions import check_submission
from studies import pretrained
from studies.bases import KINDS, Base, open_base
from studies.pretrained import MODES, classifier, freeze, train_mode
from studies.systems import count_network
from tests.docs.test_formats import fields
from tests.made import TIMES, VALID, Capture, Patch, command, make_data

OPTIONS = ["--data", "csv/tiny", "--device", "cpu", "--precision", "fp32", "--size", "32", "--batch-size", "8"]
CPU = torch.device("cpu")
System = Callable[..., Path]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "csv" / "tiny")


@pytest.fixture
def train(lists: Path, tmp_path: Path, monkeypatch: Patch) -> System:
    """Trains in a separate working directory. Returns the path of the training file."""
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "tiny").symlink_to(lists)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("studies.systems.submission_folder", lambda data: tmp_path)  # the lists are shared
    monkeypatch.setattr("studies.systems.draw_confusion", lambda *_: "")  # figures are slow

    def run(mode: str, *options: str) -> Path:
        command(pretrained, "--mode", mode, *OPTIONS, *options)
        return Path("weights", "tiny", f"efficientnet_lite0_{mode}", "training.safetensors")

    return run


def base_of(network: nn.Module, name: str) -> Base:
    kind = KINDS[name]
    return Base(name, kind.title, 224, (0.5,) * 3, (0.5,) * 3, "", network, kind.width)


def untimed(system: str) -> pd.DataFrame:
    return pd.read_csv(f"report/tiny/history_{system}.csv").drop(columns=TIMES)


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_a_system_is_trained_and_described(train: System, mode: str, capsys: Capture, monkeypatch: Patch) -> None:
    """Also: the features of a frozen base give the same predictions as the whole network."""
    finish, by_features = pretrained.finish, list[np.ndarray]()

    def keep(task: Any, training: Any, prepared: float) -> None:
        by_features.append(training.predict(training.network.eval()))
        finish(task, training, prepared)

    monkeypatch.setattr(pretrained, "finish", keep)
    file, system = train(mode, "--epochs", "3"), f"efficientnet_lite0_{mode}"
    about = json.loads(Path(f"report/tiny/run_{system}.json").read_text())
    assert about["parameters"] == parameters_of(open_base("efficientnet_lite0").network) + (
        2562 if mode == "tuned" else 1281 * 256 + 257 * 128 + 129 * 64 + 65 * 16 + 17 * 8 + 9 * 2
    )
    assert about["settings"]["weights_sha256"].startswith("57934424") and about["seconds"] > 0
    table = pd.read_csv(f"report/tiny/valid_{system}.csv")
    probabilities = table[["probability_0", "probability_1"]].to_numpy()
    assert len(table) == VALID and (table["prediction"] == probabilities.argmax(axis=1)).all()
    if not about["settings"]["d4"]:
        powers = by_features[0].astype(np.float64) ** (1 / about["settings"]["temperature"])
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), probabilities, atol=1e-4)
    history = pd.read_csv(f"report/tiny/history_{system}.csv")
    assert [*history.columns] == fields("`history_<model>.csv`") and [*history["epoch"]] == [1, 2, 3]
    data = read_data_set("csv/tiny")
    images = pretrained.test_images(data)
    assert images is not None and len(check_submission(Path(f"submission_{system}.csv"), images, data)) == len(images)
    out = capsys.readouterr().out
    assert "macro precision" in out and "0 s left" in out and file.is_file()
    # Trained layers cost three passes forward (6 operations for a multiply-accumulate), frozen ones a third of it.
    whole = classifier(open_base("efficientnet_lite0"), mode, 2, 0.2)
    _, macs, still = count_network(whole, 32, freeze(whole, 1.0))
    frozen = 24 * 2 * still + 3 * 24 * 6 * (macs - still)
    assert about["macs"] == macs
    assert about["training_flop"] == (frozen if mode == "frozen" else 3 * 24 * 6 * macs)


def stop_after(patch: Patch, epoch: int) -> None:
    """Stop a training as Ctrl-C would, just after it has saved an epoch."""

    def save_and_stop(path: Path, about: Any, tensors: dict[str, Tensor]) -> None:
        save_checkpoint(path, about, tensors)
        if len(about.history) == epoch:
            raise KeyboardInterrupt

    patch.setattr(pretrained, "save_checkpoint", save_and_stop)


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_training_is_the_uninterrupted_one(
    train: System, mode: str, monkeypatch: Patch, capsys: Capture
) -> None:
    options, system = ["--epochs", "2", "--dropout", "0.5"], f"efficientnet_lite0_{mode}"
    options += ["--frozen-share", "0.3"] if mode == "tuned" else []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        train(mode, *options)
    file = train(mode, *options)
    assert "resuming after epoch 1 of 2" in capsys.readouterr().out
    resumed, history, answers = read_tensors(file), untimed(system), Path(f"submission_{system}.csv").read_text()
    train(mode, *options)
    assert "finished already" in capsys.readouterr().out
    train(mode, *options, "--fresh")
    assert "epoch 1/2" in capsys.readouterr().out
    expected = read_tensors(file)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())
    pd.testing.assert_frame_equal(untimed(system), history, check_exact=True)
    assert Path(f"submission_{system}.csv").read_text() == answers


def test_the_best_epoch_is_restored_although_no_early_stop_was_made(train: System, monkeypatch: Patch) -> None:
    scores, ended, epochs = (
        iter([(0.5, 1.0), (0.9, 1.0), (0.1, 1.0)]),
        list[dict[str, Tensor]](),
        list[dict[str, Tensor]](),
    )

    def keep(path: Path, about: Any, tensors: dict[str, Tensor]) -> None:
        save_checkpoint(path, about, tensors)
        epochs.append(read_tensors(path))

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "save_checkpoint", keep)
        patch.setattr(pretrained, "score", lambda *_: next(scores))
        patch.setattr(pretrained, "finish", lambda _, training, __: ended.append(training.network.state_dict()))
        train("frozen", "--epochs", "3")
    second = part(epochs[1], "model.")
    assert ended[0].keys() == second.keys() and not torch.equal(second["0.weight"], epochs[2]["model.0.weight"])
    assert all(torch.equal(tensor, second[name]) for name, tensor in ended[0].items())
    scores = iter([(0.5, 1.0), (0.4, 1.0), (0.4, 1.0), (0.9, 1.0)])
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "score", lambda *_: next(scores))
        patch.setattr(pretrained, "finish", lambda *_: None)
        train("frozen", "--epochs", "9", "--patience", "2", "--fresh")
    assert len(untimed("efficientnet_lite0_frozen")) == 3


def test_frozen_layers_keep_weights_and_statistics(train: System) -> None:
    file = train("tuned", "--epochs", "1", "--frozen-share", "0.5")
    trained, base = part(read_tensors(file), "train.base."), open_base("efficientnet_lite0").network
    layers = [name for name, module in base.named_modules() if [*module.parameters(recurse=False)]]
    before = base.state_dict()
    for layer in layers:
        frozen = layers.index(layer) < round(len(layers) / 2)
        for name in [name for name in before if name.rpartition(".")[0] == layer]:
            assert torch.equal(trained[name], before[name]) == frozen, name


def test_norms_of_frozen_layers_stay_in_evaluation_mode() -> None:
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), first, nn.Conv2d(4, 4, 1), second)
    whole = classifier(base_of(network, "imagenet_resnet18"), "tuned", 2, 0.0)
    assert freeze(whole, 0.5) == ["base.0", "base.1"]
    train_mode(whole)
    assert [module.training for module in network] == [True, False, True, True]
    network(torch.randn(2, 3, 4, 4))
    assert first.state_dict()["running_mean"].count_nonzero() == 0 < second.state_dict()["running_mean"].count_nonzero()
    assert freeze(whole, 0.0) == [] and all(parameter.requires_grad for parameter in whole.parameters())


def test_the_head_of_vgg16_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        whole = classifier(base_of(torchvision.models.vgg16(weights=None).features, "imagenet_vgg16"), "frozen", 4, 0.2)
    assert parameters_of(whole.get_submodule("head")) == 173_692
    assert parameters_of(whole) == 14_888_380


def test_multiply_accumulates() -> None:
    """EfficientNet-Lite0's are published as 407 million; ViT's follow from its sizes, attention included."""
    lite = classifier(open_base("efficientnet_lite0"), "tuned", 1000, 0.2)
    _, total, frozen = count_network(lite, 224, freeze(lite, 1.0))
    assert total == pytest.approx(407e6, rel=0.06) and frozen == total - 1_280_000
    vit = torchvision.models.VisionTransformer(224, 16, 1, 12, 768, 3072)
    vit.heads = nn.Identity()
    network = nn.Sequential(vit, nn.Unflatten(1, (768, 1, 1)))
    whole = classifier(base_of(network, "imagenet_vit_b16"), "tuned", 2, 0.2)
    _, total, frozen = count_network(whole, 224, freeze(whole, 1.0))
    tokens = 14 * 14 + 1
    linear = 196 * 768 * 768 + tokens * (4 * 768 * 768 + 2 * 768 * 3072)
    assert frozen == linear + 2 * tokens * tokens * 768 and total == frozen + 2 * 768


def test_another_training_is_not_resumed(train: System, lists: Path) -> None:
    file = train("frozen", "--epochs", "1")
    before = file.read_bytes()

    def refused(pattern: str, *options: str) -> None:
        with pytest.raises(UserError, match=pattern):
            train("frozen", *options)

    refused(r"another lr \(0.001, now 0.01\); repeat its options, or --fresh", "--epochs", "1", "--lr-head", "0.01")
    refused("another size", "--epochs", "1", "--size", "64")
    Path("csv/tiny").unlink()
    make_data(Path("csv/tiny"), seed=1)
    refused("another images_sha256", "--epochs", "1")
    table = Path("csv/tiny/train.csv")
    table.write_text("\n".join(table.read_text().split()[:-1]))
    refused("another (lists|images_sha256)", "--epochs", "1")
    assert file.read_bytes() == before
    file.write_bytes(before[: len(before) // 2])
    refused("expected a checkpoint", "--epochs", "1")
    train("frozen", "--epochs", "1", "--fresh")


def test_wrong_input_gets_one_sentence(train: System, tmp_path: Path) -> None:
    for pattern, mode, options in (
        ("--mode tuned", "frozen", ["--frozen-share", "0.5"]),
        ("--mode tuned", "frozen", ["--augmentation", "d4"]),
        ("--frozen-share must be from 0 to 1", "tuned", ["--frozen-share", "1.5"]),
        ("--lr-base must be above 0", "tuned", ["--lr-base", "nan"]),
        ("--dropout", "tuned", ["--dropout", "1"]),
        ("takes from 32", "tuned", ["--size", "33"]),
        ("needs --weights-file", "tuned", ["--base", "imagenet_resnet18"]),
        ("expected none, or some of", "tuned", ["--augmentation", "blur"]),
        ("no such file", "tuned", ["--weights-file", "nothing.pth"]),
    ):
        with pytest.raises(UserError, match=pattern):
            train(mode, *options)
    data = make_data(tmp_path / "csv" / "one")
    table = pd.read_csv(data / "train.csv")
    table.assign(label=0).to_csv(data / "train.csv", index=False)
    with pytest.raises(UserError, match=r"train.csv: all images have the same class"):
        train("tuned", "--data", str(data))
    assert len(read_lists(read_data_set("csv/tiny"), ("train",))) == 1  # nothing was lost


def test_a_torchvision_network_is_tuned_from_a_file(train: System) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), "resnet18.pth")
    options = [
        "--base",
        "imagenet_resnet18",
        "--weights-file",
        "resnet18.pth",
        "--epochs",
        "1",
        "--augmentation",
        "cutmix",
    ]
    train("tuned", *options)
    about = json.loads(Path("report/tiny/run_imagenet_resnet18_tuned.json").read_text())
    assert about["base"] == "imagenet_resnet18" and about["parameters"] == 11_176_512 + 1026
