"""Training: what a run writes, that it goes on where it stopped, and what it refuses; on made cells with thin networks."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from lab.checkpoints.checkpoint import part, read_about, read_state, read_tensors
from lab.errors import UserError
from lab.training import snapshots
from lab.training.ema import EMA
from models import catalog
from tests.made import (
    DEPTHS,
    FAST,
    TRAIN,
    VALID,
    Trainer,
    command,
    contents,
    inside,
    interrupt,
    make_data,
    outputs,
    slow_probabilities,
    thin,
)

COLUMNS = ["epoch", "train_accuracy", "valid_accuracy", "train_loss", "valid_loss", "learning_rate", "size", "seconds"]
COLUMNS += ["images_per_second"]


def script_scores(patch: pytest.MonkeyPatch, *scores: tuple[float, float]) -> None:
    """Let validation find these accuracies and losses, one epoch after the other."""
    given = iter(scores)
    patch.setattr(train, "score", lambda *_: next(given))


# ---- what a run writes


@pytest.mark.parametrize("model", DEPTHS)
def test_history_has_a_row_per_epoch(trained: Path, model: str) -> None:
    history = pd.read_csv(trained / "report" / "tiny" / f"history_{model}.csv")
    assert list(history.columns) == COLUMNS
    assert list(history["epoch"]) == [1, 2, 3]
    # The deep ones see small images first: half of 32 px, and three quarters, but never less than 32 px.
    assert list(history["size"]) == [32, 32, 32]
    # Accuracies are fractions of the images seen.
    for column, count in (("train_accuracy", TRAIN), ("valid_accuracy", VALID)):
        hits = history[column] * count
        assert (abs(hits - hits.round()) < 1e-3).all() and hits.between(0, count).all()
    assert (history["train_loss"] > 0).all() and (history["images_per_second"] > 0).all()
    assert (history["learning_rate"] > 0).all() and (history["learning_rate"] <= 0.1).all()
    assert history["learning_rate"].iloc[-1] == history["learning_rate"].min()


@pytest.mark.parametrize("model", DEPTHS)
@pytest.mark.parametrize("data", ["tiny", "other"])
def test_best_is_what_it_says_on_valid(trained: Path, data: str, model: str) -> None:
    """Accuracy and loss, recounted one image at a time from the saved file alone, stand in its metrics and the history."""
    best = trained / "weights" / data / model / "best.safetensors"
    valid = pd.read_csv(trained / "csv" / data / "valid.csv")
    probabilities = slow_probabilities(best, [trained / "csv" / data / path for path in valid["Path"]])
    accuracy = (probabilities.argmax(axis=1) == valid["label"]).mean()
    loss = -np.log(probabilities[np.arange(len(valid)), valid["label"]]).mean()
    about = read_about(best, model)
    assert about.metrics["valid_accuracy"] == accuracy
    assert about.metrics["valid_loss"] == pytest.approx(loss, rel=1e-4)
    history = pd.read_csv(trained / "report" / data / f"history_{model}.csv").set_index("epoch")
    row = history.loc[int(about.metrics["epoch"])]
    assert row["valid_accuracy"] == pytest.approx(accuracy, rel=1e-5) == history["valid_accuracy"].max()
    assert row["valid_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_checkpoint_carries_all_that_is_needed_elsewhere(trained: Path) -> None:
    about = read_about(trained / "weights" / "other" / "resnet50" / "best.safetensors", "resnet50")
    assert about.classes == ["class 0", "class 1", "class 2"] and about.data == "other"
    assert about.settings["batch_size"] == 8 and about.settings["lr"] == 0.1 and about.settings["progressive"] is True
    assert about.train_share == [1 / 3, 1 / 3, 1 / 3]
    assert about.preprocessing.size == 32 and about.preprocessing.source == 64
    # The statistics are those of the training images: mostly black, so far from the neutral ones.
    assert all(0 < mean < 0.4 for mean in about.preprocessing.mean)
    measured = {"valid_images", "valid_accuracy", "valid_loss", "valid_accuracy_d4", "valid_loss_d4"}
    assert measured | {"epoch"} == about.metrics.keys() and about.metrics["valid_images"] == VALID
    assert about.records[0]["torch"] == torch.__version__


def test_two_data_sets_and_three_depths_never_share_a_file(trained: Path) -> None:
    before = ast.literal_eval((trained / "before").read_text())
    after = contents(trained)
    assert {name: after[name] for name in before} == before
    made = {name for name in before if name.startswith(("weights", "report"))}
    expected = {f"weights/tiny/{model}/{name}.safetensors" for model in DEPTHS for name in ("best", "last")}
    reports = {f"report/tiny/{name}" for model in DEPTHS for name in (f"history_{model}.csv", f"run_{model}.json")}
    assert made == expected | reports
    assert {name.replace("tiny", "other") for name in made} <= after.keys() - before.keys()


def test_figures_are_drawn(tmp_path: Path, trained: Path) -> None:
    with inside(tmp_path):
        command(train, "--data", trained / "csv" / "tiny", *FAST, "--epochs", "1")
    for name in ("preprocessing", "augmentation", "accuracy_comparison"):
        assert (tmp_path / "report" / "tiny" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_window_and_its_reason_are_printed(
    work: pytest.MonkeyPatch, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run("--epochs", "1")
    said = capsys.readouterr().out
    assert "train: 24 images (12 normal, 12 leukemia blast)" in said
    assert "window: 32 px" in said and "cells on black" in said
    assert "resnet18 epoch 1/1: train " in said and "images/s" in said


def test_shared_images_are_warned_of(
    tmp_path: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "csv" / "leaky")
    for index in (0, 1, 5):
        (data / "valid" / f"{index}.png").write_bytes((data / "train" / f"{index}.png").read_bytes())
    command(train, "--data", "leaky", *FAST, "--epochs", "1")
    assert "warning: train.csv contains 3 images of valid.csv too" in capsys.readouterr().err


# ---- which epoch is best, and when to stop


def test_best_is_chosen_by_valid_accuracy_then_loss_and_not_the_last(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    # Epoch 3 is best: as accurate as epochs 2 and 4 and of a lower loss; then the measurement with D4.
    script_scores(work, (0.5, 0.1), (0.75, 0.6), (0.75, 0.4), (0.75, 0.5), (0.625, 0.01), (0.7, 0.3))
    averages: list[dict[str, torch.Tensor]] = []
    update = EMA.update

    def watched(self: EMA, step: int) -> None:
        update(self, step)
        averages.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})

    work.setattr(EMA, "update", watched)
    run("--epochs", "5")
    folder = tmp_path / "weights" / "tiny" / "resnet18"
    about = read_about(folder / "best.safetensors")
    assert about.metrics == {
        **{"epoch": 3, "valid_accuracy": 0.75, "valid_loss": 0.4},
        **{"valid_accuracy_d4": 0.7, "valid_loss_d4": 0.3, "valid_images": VALID},
    }
    assert read_state(folder / "best.safetensors").epoch == 3 and [row["epoch"] for row in about.history] == [
        1,
        2,
        3,
        4,
        5,
    ]
    steps = len(averages) // 5
    for name, after in (("best", 3), ("last", 5)):
        found = part(read_tensors(folder / f"{name}.safetensors"), "model.")
        expected = averages[after * steps - 1]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_each_checkpoint_knows_the_size_it_was_trained_at(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    script_scores(work, (0.5, 0.5), (0.75, 0.5), (0.6, 0.5), (0.75, 0.5))
    run("--size", "64", "--progressive")
    assert list(pd.read_csv(tmp_path / "report" / "tiny" / "history_resnet18.csv")["size"]) == [32, 48, 64]
    sizes = {name: read_about(tmp_path / f"weights/tiny/resnet18/{name}.safetensors") for name in ("best", "last")}
    assert {name: about.preprocessing.size for name, about in sizes.items()} == {"best": 48, "last": 64}


def test_early_stopping_counts_epochs_without_a_new_best(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    script_scores(work, (0.5, 0.5), (0.6, 0.5), (0.6, 0.5), (0.55, 0.4), (0.6, 0.5))
    run("--epochs", "9", "--patience", "2")
    assert "stopped early, no new best for 2 epochs" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "report" / "tiny" / "history_resnet18.csv")) == 4
    before = outputs(tmp_path)
    run("--epochs", "9", "--patience", "2")
    assert "finished already, best valid accuracy 60.00 % in epoch 2" in capsys.readouterr().out
    assert outputs(tmp_path) == before


def test_a_run_stopped_early_and_then_killed_does_not_train_on(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    script_scores(work, (0.6, 0.5), (0.5, 0.5))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 2, written=True)
        run("--epochs", "9", "--patience", "1")
    script_scores(work, (0.7, 0.5))  # for the measurement with D4; a further epoch would want another
    run("--epochs", "9", "--patience", "1")
    about = read_about(tmp_path / "weights" / "tiny" / "resnet18" / "best.safetensors")
    assert about.metrics["valid_accuracy_d4"] == 0.7
    assert len(pd.read_csv(tmp_path / "report" / "tiny" / "history_resnet18.csv")) == 2


# ---- the loop


@pytest.mark.parametrize(
    ("options", "steps", "parts"),
    [
        (["--batch-size", "8"], 3, [8]),
        (["--batch-size", "8", "--accumulate", "4"], 3, [2]),
        (["--batch-size", "10", "--accumulate", "2"], 2, [5]),  # 4 images are left over in each epoch
        (["--batch-size", "64"], 1, [24]),  # more than there are
    ],
)
def test_steps_and_batches(
    work: pytest.MonkeyPatch, run: Callable[..., None], options: list[str], steps: int, parts: list[int]
) -> None:
    """An epoch's steps depend on the batch size alone, not on how many parts a batch is split into."""
    taken: list[int] = []
    shapes: list[int] = []
    update, build = EMA.update, catalog.build

    def watched(name: str, classes: int, size: int) -> torch.nn.Module:
        network = build(name, classes, size)
        network.register_forward_pre_hook(
            lambda module, given: shapes.append(len(given[0])) if module.training else None
        )
        return network

    def counted(self: EMA, step: int) -> None:
        taken.append(step)
        update(self, step)

    work.setattr(catalog, "build", watched)
    work.setattr(EMA, "update", counted)
    run(*options, "--epochs", "2")
    assert taken == list(range(2 * steps))
    assert set(shapes) == set(parts) and len(shapes) >= 2 * steps * (1 if "--accumulate" not in options else 2)


@pytest.mark.parametrize("weights", ["none", "1,50"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, trained: Path, weights: str) -> None:
    """With a network without norms, whose statistics do depend on the parts, two parts of 4 train as one batch of 8 does, and
    the classes weigh the same in whichever part they are."""

    def plain(name: str, classes: int, size: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.Flatten(), torch.nn.Linear(4 * 49, classes))

    found = []
    for accumulate in ("1", "2"):
        folder = tmp_path / accumulate
        folder.mkdir()
        with inside(folder, network=plain, figures=False):
            options = ["--accumulate", accumulate, "--class-weights", weights]
            command(train, "--data", trained / "csv" / "tiny", *FAST, *options)
        found.append(read_tensors(folder / "weights" / "tiny" / "resnet18" / "last.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def greedy(most: int) -> Callable[..., torch.nn.Module]:
    """Thin networks for which a device has no memory to train on more than ``most`` images at once."""

    def build(name: str, classes: int, size: int) -> torch.nn.Module:
        def check(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
            if module.training and len(given[0]) > most:
                raise torch.OutOfMemoryError

        network = thin(name, classes, size)
        network.register_forward_pre_hook(check)
        return network

    return build


def test_a_batch_too_large_for_the_memory_is_split(
    tmp_path: Path,
    trained: Path,
    work: pytest.MonkeyPatch,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run is then the one that ``--accumulate 4`` would have been, and goes on as such where there is more memory."""
    for name, most in (("small", 2), ("whole", 8)):
        (tmp_path / name).mkdir()
        with inside(tmp_path / name, network=greedy(most), figures=False):
            if most == 8:
                run("--accumulate", "4")
                continue
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                interrupt(patch, 1, True)
                run()
            assert "does not fit into the memory of cpu; split into 4 parts" in capsys.readouterr().out
    with inside(tmp_path / "small", figures=False):
        run()
    for name in ("last", "best"):
        path = Path("weights", "tiny", "resnet18", f"{name}.safetensors")
        small, large = read_tensors(tmp_path / "small" / path), read_tensors(tmp_path / "whole" / path)
        assert small.keys() == large.keys() and all(torch.equal(small[key], large[key]) for key in small)
    with inside(tmp_path / "small", figures=False):
        capsys.readouterr()
        run()  # the same command as ever
        assert "finished already" in capsys.readouterr().out


def stop_at_step(patch: pytest.MonkeyPatch, step: int) -> None:
    """Stop a run in the step of this number, with a snapshot of the one before."""
    update = EMA.update

    def stopping(self: EMA, number: int) -> None:
        if number == step:
            raise KeyboardInterrupt
        update(self, number)

    patch.setattr(EMA, "update", stopping)
    patch.setattr(snapshots, "INTERVAL", 0.0)


def test_a_split_within_an_epoch_leaves_means_over_images(tmp_path: Path, run: Callable[..., None]) -> None:
    """Two of three steps with all the memory, the last with little: the mean loss is still one over the epoch's images."""
    losses = {}
    for name in ("whole", "split"):
        (tmp_path / name).mkdir()
        if name == "split":
            with inside(tmp_path / name, figures=False) as patch, pytest.raises(KeyboardInterrupt):
                stop_at_step(patch, 2)
                run()
        with inside(tmp_path / name, network=thin if name == "whole" else greedy(2), figures=False):
            run()
        losses[name] = pd.read_csv(tmp_path / name / "report" / "tiny" / "history_resnet18.csv")["train_loss"][0]
    assert losses["split"] == pytest.approx(losses["whole"], rel=0.1)  # and not a multiple, by the number of parts


def test_a_network_too_large_for_the_memory_is_said(tmp_path: Path, run: Callable[..., None]) -> None:
    with inside(tmp_path, network=greedy(1), figures=False):
        with pytest.raises(UserError, match="even two images at once; choose a smaller --size"):
            run()
        assert not list(tmp_path.rglob("*.safetensors"))


def test_class_weights_reach_the_loss(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    run("--class-weights", "1,50", "--smoothing", "0")
    best = tmp_path / "weights" / "tiny" / "resnet18" / "last.safetensors"
    paths = [trained / "csv" / "tiny" / "valid" / f"{index}.png" for index in range(VALID)]
    weighted = slow_probabilities(best, paths)[:, 1].mean()
    assert weighted > slow_probabilities(trained / "weights/tiny/resnet18/last.safetensors", paths)[:, 1].mean() + 0.1


def test_a_loss_that_explodes_is_said_and_not_saved(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    with pytest.raises(UserError, match=r"no longer a finite number.*lower --lr"):
        run("--lr", "1e38", "--clip", "0", "--warmup", "0")
    last = read_state(tmp_path / "weights" / "tiny" / "resnet18" / "last.safetensors")
    assert (last.epoch, last.step) == (0, 0)  # as before the first step
    assert not list((tmp_path / "weights").rglob("best.safetensors"))


# ---- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "31"], "32 px or more"),
        (["--epochs", "0"], "--epochs must be 1 or more"),
        (["--batch-size", "1"], "--batch-size must be 2 or more"),
        (["--window", "5000000"], "--window must be 16,384 at most"),
        (["--seed", "99999999999999999999999"], "--seed must be"),
        (["--device", "meta"], "--device meta cannot be used"),
        (["--batch-size", "8", "--accumulate", "3"], "cannot be divided"),
        (["--batch-size", "8", "--accumulate", "8"], "parts of 2 or more"),
        (["--smoothing", "1"], "below 1"),
        (["--ema", "-0.1"], "at least 0"),
        (["--ema", "nan"], "at least 0"),
        (["--lr", "0"], "--lr must be above 0"),
        (["--lr", "nan"], "--lr must be above 0"),
        (["--window", "0"], "--window must be above 0"),
        (["--weight-decay", "-1"], "--weight-decay must be 0 or more"),
        (["--warmup", "-1"], "--warmup must be 0 or more"),
        (["--clip", "-1"], "--clip must be 0 or more"),
        (["--patience", "-1"], "--patience must be 0 or more"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--device", "nonsense"], "--device nonsense"),
        (["--class-weights", "1,2,3"], "2 numbers"),
    ],
)
def test_numbers_that_no_run_can_use(
    tmp_path: Path, work: pytest.MonkeyPatch, run: Callable[..., None], options: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run(*options)
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "report").exists()


def test_problems_of_the_lists_are_one_error_and_nothing_starts(trainer: Trainer, tmp_path: Path) -> None:
    """As a user meets it: no traceback, exit status 2, nothing written."""
    data = make_data(tmp_path / "csv" / "bad")
    (data / "train" / "3.png").unlink()
    (data / "train.csv").write_text((data / "train.csv").read_text().replace("./train/5.png,1", "./train/5.png,one"))
    before = outputs(tmp_path)
    done = trainer.script(tmp_path, "train.py", "--data", "bad", "--device", "cpu")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    for words in ("train.csv", "2 problems", "line 5: ./train/3.png does not exist", "line 7: label 'one'"):
        assert words in done.stderr
    assert outputs(tmp_path) == before


def test_unreadable_images_are_one_error_and_nothing_is_trained(tmp_path: Path, work: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "csv" / "bad")
    (data / "train" / "3.png").write_bytes(b"no image")
    (data / "valid" / "0.png").write_bytes((data / "valid" / "0.png").read_bytes()[:60])
    with pytest.raises(UserError) as error:
        command(train, "--data", "bad", *FAST)
    assert "train/3.png" in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_settings_can_be_read_as_plain_json(trained: Path) -> None:
    """What a run was made with can be read without this project: a header of the file format, JSON."""
    with (trained / "weights" / "tiny" / "resnet18" / "best.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert json.loads(header["__metadata__"]["about"])["settings"]["epochs"] == 3


def test_thin_networks_do_not_fit_each_other() -> None:
    """The tests above stand on it."""
    shapes = {name: [tuple(p.shape) for p in thin(name).parameters()] for name in DEPTHS}
    assert len({str(value) for value in shapes.values()}) == 3
