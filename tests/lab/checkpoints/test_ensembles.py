"""An average of several seeds predicts the mean of their probabilities; folders that mix other networks are refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import demo
import evaluate
import predict
import train
from lab.checkpoints.checkpoint import About, read_about, read_tensors
from lab.checkpoints.ensembles import load_members, other
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError
from lab.evaluation import inference
from lab.evaluation.confidence import calibrated
from lab.evaluation.inference import decide_d4, predict_members, score
from lab.hardware import Hardware
from studies import average
from tests.made import FAST, about, cell, command, contents, inside, make_data, save_thin, slow_probabilities, thin

CPU = ["--device", "cpu", "--precision", "fp32"]
SEEDS = [f"weights-{seed}/tiny/resnet18" for seed in range(3)]
OUT = "weights-average/tiny/resnet18"

pytestmark = pytest.mark.usefixtures("thin_networks")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only folder with lists in csv/tiny and three seeds trained on them."""
    folder = tmp_path_factory.mktemp("seeds")
    make_data(folder / "csv" / "tiny")
    with inside(folder, figures=False):
        for seed in range(3):
            outputs = ["--weights", f"weights-{seed}", "--report", f"report-{seed}"]
            command(train, *FAST, "--data", "tiny", "--seed", str(seed), *outputs)
    return folder


@pytest.fixture
def work(tmp_path: Path, seeds: Path) -> Iterator[Path]:
    """A copy of ``seeds`` as working directory, with thin networks."""
    shutil.copytree(seeds, tmp_path, dirs_exist_ok=True)
    with inside(tmp_path, figures=False):
        yield tmp_path


def member(seed: int, classes: int = 2, **values: Any) -> tuple[torch.nn.Module, About]:
    """A network with random weights, and its description."""
    torch.manual_seed(seed)
    return thin("resnet18", classes).eval(), about(classes=[str(label) for label in range(classes)], **values)


def folder_of(folder: Path, *members: tuple[torch.nn.Module, About]) -> Path:
    """Write an average; returns its best checkpoint."""
    best, (network, description) = folder / "best.safetensors", members[0]
    save_thin(best, replace(description, members=len(members)), network)
    for number, (network, description) in enumerate(members[1:], 2):
        save_thin(other(folder, number), description, network)
    return best


def slow(paths: list[Path], images: list[Path], d4: bool = False) -> np.ndarray:
    """The mean of the members' probabilities, predicted separately, one image at a time and without a temperature."""
    return np.mean([slow_probabilities(path, images, d4=d4, raw=True) for path in paths], axis=0)


def test_the_average_is_the_mean_of_the_members_with_their_own_normalisation() -> None:
    members = [member(seed, 3) for seed in range(3)]
    preprocessing = replace(about().preprocessing, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
    members[1] = (members[1][0], replace(members[1][1], preprocessing=preprocessing))
    torch.manual_seed(7)
    raw, hardware = torch.rand(5, 3, 32, 32), Hardware(torch.device("cpu"), "fp32")

    def feed(preprocessing: Preprocessing) -> list[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        return [((raw - mean) / std, torch.zeros(5), np.arange(5))]

    found = predict_members(members, feed, hardware)
    assert found.dtype == np.float32 and found.shape == (5, 3)
    with torch.no_grad():
        each = [network(feed(about.preprocessing)[0][0]).softmax(1).numpy() for network, about in members]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5, atol=1e-7)
    assert np.abs(each[0] - each[1]).max() > 1e-3
    # The average of one member is that member, bit for bit.
    alone = predict_members(members[:1], feed, hardware)
    np.testing.assert_array_equal(alone, inference.predict(members[0][0], feed(members[0][1].preprocessing), hardware))


def test_members_are_ordered_by_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = [member(seed) for seed in range(11)]  # member_10 comes after member_9
    found = load_members(folder_of(tmp_path, *saved), "resnet18")
    assert "resnet18: averaging 11 members" in capsys.readouterr().out
    for (network, _), (expected, _) in zip(found, saved, strict=True):
        assert torch.equal(network.state_dict()["fc.weight"], expected.state_dict()["fc.weight"])


def test_a_missing_or_surplus_member_is_refused(tmp_path: Path) -> None:
    best = folder_of(tmp_path, member(0), member(1), member(2))
    other(tmp_path, 2).rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"expects member_2.*, member_3.* beside it, found member_3.safetensors;"):
        load_members(best)
    (tmp_path / "kept").rename(other(tmp_path, 2))
    save_thin(best, about(), thin("resnet18"))  # a training's best, with old members beside it
    with pytest.raises(UserError, match=r"expects no other member beside it, found member_2.*, member_3"):
        load_members(best)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet50"}, "expected weights of resnet18, found resnet50"),
        ({"classes": ["1", "0"]}, r"expected classes \['0', '1'\], found \['1', '0'\]"),
        ({"lists": "b" * 64}, "expected training and valid lists with the hash aaaaaaaaaaaa, found bbbbbbbbbbbb"),
        ({"preprocessing": Preprocessing(48, 64, 32, "cell")}, "of 32 px around .*, found of 48 px around the cell"),
        ({"preprocessing": Preprocessing(32, 64, 32, "centre")}, "found of 32 px around the centre"),
        ({"preprocessing": Preprocessing(32, 96, 48, "cell")}, "found of 32 px around the cell, stored at 96 px"),
    ],
)
def test_mixtures_are_refused_when_loaded_and_when_made(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    network, description = member(0, lists="a" * 64)
    changed = replace(description, **changes)
    different = (thin(changed.model), changed)
    best = folder_of(tmp_path / "both", (network, description), different)
    with pytest.raises(UserError, match=rf"member_2.* cannot be averaged with .*best.safetensors: .*{message}"):
        load_members(best)
    folders = [
        folder_of(tmp_path / "one", (network, description)).parent,
        folder_of(tmp_path / "two", different).parent,
    ]
    with pytest.raises(UserError, match=rf"two/best.safetensors: cannot be averaged with .*one.*: .*{message}"):
        command(average, *folders, "--out", tmp_path / "average" / "resnet18")
    assert not (tmp_path / "average").exists()


@pytest.mark.parametrize(("votes", "use"), [(0, False), (1, False), (2, True), (3, True)])
def test_without_a_measurement_the_majority_decides_d4(
    votes: int, use: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    average = about(members=3, metrics={"d4_votes": votes})
    assert decide_d4(average, "auto") is use
    message = f"D4 averaging {'on' if use else 'off'}, on valid it helped {votes} of the 3 members"
    assert message in capsys.readouterr().out
    assert decide_d4(average, "on", quiet=True) and not decide_d4(average, "off", quiet=True)


def test_an_average_is_measured_and_used_by_every_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(average, *SEEDS, "--out", OUT, *CPU)
    output = capsys.readouterr().out
    assert f"python predict.py --model resnet18 --data tiny --weights {Path(OUT).parents[1]}" in output
    best = work / OUT / "best.safetensors"
    paths = [best, other(work / OUT, 2), other(work / OUT, 3)]
    # The members are the seeds, the best on valid first.
    results = [read_about(Path(folder) / "best.safetensors").metrics for folder in SEEDS]
    order = sorted(range(3), key=lambda seed: (-results[seed]["valid_accuracy"], results[seed]["valid_loss"]))
    for path, seed in zip(paths, order, strict=True):
        expected = read_tensors(Path(SEEDS[seed]) / "best.safetensors")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in read_tensors(path).items())
    assert [read_about(path).members for path in paths] == [3, 1, 1]

    # Its metrics are those of the slow predictions.
    valid = pd.read_csv("csv/tiny/valid.csv")
    images, labels = [work / "csv/tiny" / name for name in valid["Path"]], valid["label"].to_numpy()
    metrics = read_about(best).metrics
    for d4, ending in ((False, ""), (True, "_d4")):
        accuracy, loss = score(slow(paths, images, d4), labels)
        assert metrics[f"valid_accuracy{ending}"] == accuracy
        assert metrics[f"valid_loss{ending}"] == pytest.approx(loss, rel=1e-4)
        assert f"average{' with D4' if d4 else ''}: {100 * accuracy:.2f} % on valid" in output
    use = decide_d4(read_about(best), "auto", quiet=True)

    options = ["--data", "tiny", "--weights", "weights-average", *CPU]
    expected_valid = calibrated(slow(paths, images, use), read_about(best), use)
    command(evaluate, *options)
    output = capsys.readouterr().out
    hits = int((expected_valid.argmax(1) == labels).sum())
    assert "resnet18: averaging 3 members" in output and f"{hits} of {len(labels)} images" in output
    table = pd.read_csv("report/tiny/valid_resnet18.csv")
    np.testing.assert_allclose(table[["probability_0", "probability_1"]], expected_valid, atol=1e-4)

    command(predict, "--model", "resnet18", *options)
    assert "resnet18: averaging 3 members" in capsys.readouterr().out
    submission = pd.read_csv("csv/tiny/submission_resnet18.csv")
    images = [work / "csv/tiny" / name for name in submission["ID"]]
    assert list(submission["label"]) == list(slow(paths, images, use).argmax(1))

    image = work / "cell.png"
    Image.fromarray(cell(np.random.default_rng(5), 1)).save(image)
    command(demo, *options)
    output = capsys.readouterr().out
    count = 3 * sum(parameter.numel() for parameter in thin("resnet18").parameters())
    for text in ("resnet18: averaging 3 members", f" {100 * hits / len(labels):.2f} % ", f" {count:,} "):
        assert text in output
    command(demo, *options, image)
    found = re.search(r"resnet18: .+ \(normal (.+) %, leukemia blast (.+) %\)", capsys.readouterr().out)
    assert found
    percentages = [float(text) for text in found.groups()]
    expected = calibrated(slow(paths, [image], use), read_about(best), use)[0]
    assert percentages == pytest.approx(100 * expected, abs=0.06)

    # Without the lists, the demo shows the accuracy in the checkpoint.
    shutil.rmtree("csv")
    command(demo, *options)
    assert f" {100 * metrics['valid_accuracy_d4' if use else 'valid_accuracy']:.2f} % " in capsys.readouterr().out


def test_without_the_lists_the_members_decide_and_the_demo_shows_no_accuracy(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes = sum(decide_d4(read_about(Path(folder) / "best.safetensors"), "auto", quiet=True) for folder in SEEDS)
    (work / "csv").rename(work / "elsewhere")
    with pytest.raises(UserError, match="no lists found for --data tiny"):
        command(average, *SEEDS, "--out", OUT, "--data", "tiny", *CPU)
    command(average, *SEEDS, "--out", OUT, *CPU)
    output = capsys.readouterr().out
    assert "average: not measured on valid, since no lists found for --data tiny" in output
    assert f"on valid it helped {votes} of the 3 members" in output
    assert read_about(Path(OUT) / "best.safetensors").metrics == {"d4_votes": votes}
    command(demo, "--data", "tiny", "--weights", "weights-average", *CPU)
    assert " not measured " in capsys.readouterr().out


def test_other_lists_of_the_same_name_are_not_used(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "csv/tiny/valid.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    command(average, *SEEDS, "--out", OUT, *CPU)
    assert "not measured on valid, since csv/tiny: these are not the lists" in capsys.readouterr().out


# ---- refusals


def test_an_average_needs_different_networks(work: Path) -> None:
    for folders in (SEEDS[:1], [SEEDS[0], f"./{SEEDS[0]}"]):
        with pytest.raises(UserError, match="name two folders or more, each once"):
            command(average, *folders, "--out", OUT, *CPU)
    shutil.copytree(SEEDS[0], "copied/tiny/resnet18")
    with pytest.raises(UserError, match=r"copied/tiny/resnet18/best.*the same seed and settings as weights-0"):
        command(average, SEEDS[0], "copied/tiny/resnet18", "--out", OUT, *CPU)


def test_an_average_replaces_no_training_and_only_with_fresh_an_average(work: Path) -> None:
    with pytest.raises(UserError, match="expected a folder named resnet18"):
        command(average, *SEEDS, "--out", "weights-average", *CPU)
    before = contents(work / SEEDS[2])
    for options in ([], ["--fresh"]):
        with pytest.raises(UserError, match="weights-2/tiny/resnet18: contains a training"):
            command(average, *SEEDS[:2], "--out", SEEDS[2], *options, *CPU)
    assert contents(work / SEEDS[2]) == before
    command(average, *SEEDS, "--out", OUT, *CPU)
    with pytest.raises(UserError, match="contains an average already; --fresh replaces it"):
        command(average, *SEEDS[:2], "--out", OUT, *CPU)
    with pytest.raises(UserError, match="expected a single training's network, found an average of 3"):
        command(average, OUT, SEEDS[0], "--out", "again/tiny/resnet18", *CPU)
    command(average, *SEEDS[:2], "--out", OUT, "--fresh", *CPU)
    assert len(load_members(work / OUT / "best.safetensors", "resnet18")) == 2


def test_training_refuses_the_folder_of_an_average_unless_fresh(work: Path) -> None:
    command(average, *SEEDS, "--out", OUT, *CPU)
    before = contents(work / OUT)
    options = ["--data", "tiny", "--weights", "weights-average", *FAST]
    with pytest.raises(UserError, match=r"weights-average/tiny/resnet18: contains an average of 3 networks.*--fresh"):
        command(train, *options)
    # Also with a last checkpoint in the folder.
    shutil.copyfile(f"{SEEDS[0]}/last.safetensors", f"{OUT}/last.safetensors")
    with pytest.raises(UserError, match="contains an average of 3 networks"):
        command(train, *options)
    (work / OUT / "last.safetensors").unlink()
    assert contents(work / OUT) == before
    command(train, *options, "--fresh")
    assert set(contents(work / OUT)) == {"best.safetensors", "last.safetensors"}
    assert len(load_members(work / OUT / "best.safetensors", "resnet18")) == 1


def test_an_interrupted_average_cannot_be_predicted_with(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(average, *SEEDS, "--out", OUT, *CPU)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(average, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space"):
            command(average, *SEEDS[:2], "--out", OUT, "--fresh", *CPU)
    with pytest.raises(UserError, match="no trained model there"):
        command(predict, "--data", "tiny", "--weights", "weights-average", *CPU)
    command(average, *SEEDS[:2], "--out", OUT, "--fresh", *CPU)
    assert len(load_members(work / OUT / "best.safetensors", "resnet18")) == 2
