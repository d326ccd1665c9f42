"""train.py: the files that a run writes, the training loop, and invalid options; on generated cells with thin networks."""

from __future__ import annotations

import ast
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from lab.checkpoints.checkpoint import part, read_about, read_state, read_tensors
from lab.checkpoints.histories import best_row, read_histories
from lab.errors import UserError
from lab.training.ema import EMA
from models import catalog
from tests import made
from tests.made import BEST, DEPTHS, FAST, HISTORY, LAST, TRAIN, VALID, Capture, Patch, Run, Trainer

COLUMNS = ["epoch", "train_accuracy", "valid_accuracy", "train_loss", "valid_loss", "learning_rate", "size", "seconds"]
COLUMNS += ["images_per_second"]
COLUMNS[5:5] = ["valid_precision", "valid_recall", "valid_f1"]


def set_scores(patch: Patch, *scores: tuple[float, float]) -> None:
    """Make validation return these accuracies and losses, one epoch after the other."""
    remaining = iter(scores)
    patch.setattr(train, "score", lambda *_: next(remaining))


# ---- files of a run


@pytest.mark.parametrize("model", DEPTHS)
def test_the_history_has_a_row_per_epoch(trained: Path, model: str) -> None:
    history = pd.read_csv(trained / "report" / "tiny" / f"history_{model}.csv")
    assert list(history.columns) == COLUMNS
    assert list(history["epoch"]) == [1, 2, 3]
    # With --progressive, the default of the deep models, no image is smaller than 32 px.
    assert list(history["size"]) == [32, 32, 32]
    for column, count in (("train_accuracy", TRAIN), ("valid_accuracy", VALID)):
        correct = history[column] * count
        assert (abs(correct - correct.round()) < 1e-3).all() and correct.between(0, count).all()
    assert (history["train_loss"] > 0).all() and (history["images_per_second"] > 0).all()
    assert (history["learning_rate"] > 0).all() and (history["learning_rate"] <= 0.1).all()
    assert history["learning_rate"].iloc[-1] == history["learning_rate"].min()


@pytest.mark.parametrize("model", DEPTHS)
@pytest.mark.parametrize("data", ["tiny", "other"])
def test_the_metrics_of_best_are_those_of_its_weights_on_valid(trained: Path, data: str, model: str) -> None:
    """Accuracy and loss in its metrics and in the history, computed again one image at a time from the saved file."""
    best = trained / "weights" / data / model / "best.safetensors"
    valid = pd.read_csv(trained / "csv" / data / "valid.csv")
    probabilities = made.slow_probabilities(best, [trained / "csv" / data / path for path in valid["Path"]], raw=True)
    accuracy = (probabilities.argmax(axis=1) == valid["label"]).mean()
    loss = -np.log(probabilities[np.arange(len(valid)), valid["label"]]).mean()
    metrics = read_about(best, model).metrics
    assert metrics["valid_accuracy"] == accuracy and metrics["valid_loss"] == pytest.approx(loss, rel=1e-4)
    history = pd.read_csv(trained / "report" / data / f"history_{model}.csv").set_index("epoch")
    row = history.loc[int(metrics["epoch"])]
    assert row["valid_accuracy"] == pytest.approx(accuracy, rel=1e-5) == history["valid_accuracy"].max()
    assert row["valid_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_checkpoint_has_everything_needed_to_use_it_elsewhere(trained: Path) -> None:
    about = read_about(trained / "weights" / "other" / "resnet50" / "best.safetensors", "resnet50")
    assert about.classes == ["class 0", "class 1", "class 2"] and about.data == "other"
    assert about.settings["batch_size"] == 8 and about.settings["lr"] == 0.1 and about.settings["progressive"] is True
    assert about.train_share == [1 / 3, 1 / 3, 1 / 3]
    assert about.preprocessing.size == 32 and about.preprocessing.source == 64
    assert all(0 < mean < 0.4 for mean in about.preprocessing.mean)  # the training images are mostly black
    measured = {"valid_images", "valid_accuracy", "valid_loss", "valid_accuracy_d4", "valid_loss_d4"}
    assert measured | {"epoch"} == about.metrics.keys() and about.metrics["valid_images"] == VALID
    assert about.records[0]["torch"] == torch.__version__


def test_two_data_sets_and_three_depths_share_no_file(trained: Path) -> None:
    before, after = ast.literal_eval((trained / "before").read_text()), made.contents(trained)
    assert {name: after[name] for name in before} == before
    written = {name for name in before if name.startswith(("weights", "report"))}
    weights = {f"weights/tiny/{model}/{name}.safetensors" for model in DEPTHS for name in ("best", "last")}
    names = ("history_{}.csv", "run_{}.json", "log_{}.txt")
    reports = {f"report/tiny/{name.format(model)}" for model in DEPTHS for name in names}
    assert written == weights | reports
    assert {name.replace("tiny", "other") for name in written} <= after.keys() - before.keys()


def test_a_run_draws_figures_and_prints_its_images_and_window(tmp_path: Path, trained: Path, capsys: Capture) -> None:
    with made.inside(tmp_path):
        made.command(train, "--data", trained / "csv" / "tiny", *FAST, "--epochs", "1")
    for name in ("preprocessing", "augmentation", "accuracy_comparison"):
        assert (tmp_path / "report" / "tiny" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr().out
    assert "train: 24 images (12 normal, 12 leukemia blast)" in output
    assert "window: 32 px" in output and "cells on black" in output
    assert "resnet18 epoch 1/1: train " in output and "images/s" in output


# ---- the best epoch, and early stopping


def test_best_is_the_epoch_with_the_best_accuracy_then_loss(tmp_path: Path, work: Patch, run: Run) -> None:
    # Epoch 3 is best: as accurate as epochs 2 and 4 and with a lower loss. The last score is that with D4.
    set_scores(work, (0.5, 0.1), (0.75, 0.6), (0.75, 0.4), (0.75, 0.5), (0.625, 0.01), (0.7, 0.3))
    averages: list[dict[str, torch.Tensor]] = []

    def copy(ema: EMA, _: int) -> None:
        averages.append({name: tensor.clone() for name, tensor in ema.network.state_dict().items()})

    made.after_steps(work, copy)
    run("--epochs", "5")
    about = read_about(tmp_path / BEST)
    expected = {"epoch": 3, "valid_accuracy": 0.75, "valid_loss": 0.4, "valid_images": VALID}
    assert about.metrics == expected | {"valid_accuracy_d4": 0.7, "valid_loss_d4": 0.3}
    assert read_state(tmp_path / BEST).epoch == 3 and [row["epoch"] for row in about.history] == [1, 2, 3, 4, 5]
    steps = len(averages) // 5
    for path, epoch in ((BEST, 3), (LAST, 5)):
        saved, average = part(read_tensors(tmp_path / path), "model."), averages[epoch * steps - 1]
        assert saved.keys() == average.keys()
        assert all(torch.equal(saved[key], average[key]) for key in average), path


def test_each_checkpoint_has_the_size_it_was_trained_at(tmp_path: Path, work: Patch, run: Run) -> None:
    set_scores(work, (0.5, 0.5), (0.75, 0.5), (0.6, 0.5), (0.75, 0.5))
    run("--size", "64", "--progressive")
    assert list(pd.read_csv(tmp_path / HISTORY)["size"]) == [32, 48, 64]
    assert [read_about(tmp_path / path).preprocessing.size for path in (BEST, LAST)] == [48, 64]


def test_of_equal_epochs_the_one_at_full_size_is_best(tmp_path: Path, work: Patch, run: Run) -> None:
    set_scores(work, (0.75, 0.1), (0.75, 0.2), (0.75, 0.5), (0.75, 0.5))
    run("--size", "64", "--progressive")
    about = read_about(tmp_path / BEST)
    assert (about.metrics["epoch"], about.preprocessing.size) == (3, 64)
    assert best_row(read_histories(tmp_path / HISTORY.parent)["resnet18"]) == 2


def test_early_stopping_counts_epochs_without_a_new_best(
    tmp_path: Path, work: Patch, run: Run, capsys: Capture
) -> None:
    set_scores(work, (0.5, 0.5), (0.6, 0.5), (0.6, 0.5), (0.55, 0.4), (0.6, 0.5))
    run("--epochs", "9", "--patience", "2")
    assert "stopped early, no new best for 2 epochs" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / HISTORY)) == 4
    before = made.outputs(tmp_path)
    run("--epochs", "9", "--patience", "2")
    assert "finished already, best valid accuracy 60.00 % in epoch 2" in capsys.readouterr().out
    assert made.outputs(tmp_path) == before


def test_a_run_killed_after_early_stopping_trains_no_further_epoch(tmp_path: Path, work: Patch, run: Run) -> None:
    set_scores(work, (0.6, 0.5), (0.5, 0.5))
    with made.interrupted(2):
        run("--epochs", "9", "--patience", "1")
    set_scores(work, (0.7, 0.5))  # with D4; another epoch would need another score
    run("--epochs", "9", "--patience", "1")
    assert read_about(tmp_path / BEST).metrics["valid_accuracy_d4"] == 0.7
    assert len(pd.read_csv(tmp_path / HISTORY)) == 2


# ---- the loop


@pytest.mark.parametrize(
    ("options", "steps", "part_size"),
    [
        (["--batch-size", "8"], 3, 8),
        (["--batch-size", "8", "--accumulate", "4"], 3, 2),
        (["--batch-size", "10", "--accumulate", "2"], 2, 5),  # 4 images are left over in each epoch
        (["--batch-size", "64"], 1, 24),  # more than the list has
    ],
)
def test_the_number_of_steps_depends_on_the_batch_size_alone(
    work: Patch, run: Run, options: list[str], steps: int, part_size: int
) -> None:
    numbers: list[int] = []
    sizes: list[int] = []
    build = catalog.build

    def watched(name: str, classes: int, size: int) -> torch.nn.Module:
        network = build(name, classes, size)
        network.register_forward_pre_hook(lambda module, x: sizes.append(len(x[0])) if module.training else None)
        return network

    work.setattr(catalog, "build", watched)
    made.after_steps(work, lambda _, step: numbers.append(step))
    run(*options, "--epochs", "2")
    assert numbers == list(range(2 * steps))
    assert set(sizes) == {part_size} and len(sizes) >= 2 * steps * (2 if "--accumulate" in options else 1)


@pytest.mark.parametrize("weights", ["none", "1,50"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, trained: Path, weights: str) -> None:
    """Two parts of 4 train as one batch of 8, also with class weights; without norms, whose statistics differ between parts."""

    def plain(name: str, classes: int, size: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.Flatten(), torch.nn.Linear(4 * 49, classes))

    tensors = []
    for accumulate in ("1", "2"):
        folder = tmp_path / accumulate
        folder.mkdir()
        with made.inside(folder, network=plain, figures=False):
            options = ["--accumulate", accumulate, "--class-weights", weights]
            made.command(train, "--data", trained / "csv" / "tiny", *FAST, *options)
        tensors.append(read_tensors(folder / LAST))
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_too_large_for_the_memory_is_split(tmp_path: Path, run: Run, capsys: Capture) -> None:
    """The run equals that with ``--accumulate 4``, also when it is resumed with more memory."""
    (tmp_path / "whole").mkdir()
    with made.inside(tmp_path / "whole", figures=False):
        run("--accumulate", "4")
    with made.inside(tmp_path, made.short_of_memory(2), figures=False), made.interrupted():
        run()
    assert "does not fit into the memory of cpu; split into 4 parts" in capsys.readouterr().out
    run()
    for path in (LAST, BEST):
        split, whole = read_tensors(tmp_path / path), read_tensors(tmp_path / "whole" / path)
        assert split.keys() == whole.keys() and all(torch.equal(split[key], whole[key]) for key in split)
    run()
    assert "finished already" in capsys.readouterr().out


def test_a_split_within_an_epoch_keeps_the_mean_loss_over_images(tmp_path: Path, trained: Path, run: Run) -> None:
    """Two of three steps with all the memory, the last with little."""
    with made.signalled(EMA, "update", 2, signal.SIGINT):
        run()
    with made.inside(tmp_path, made.short_of_memory(2), figures=False):
        run()
    split, whole = (pd.read_csv(folder / HISTORY)["train_loss"][0] for folder in (tmp_path, trained))
    assert split == pytest.approx(whole, rel=0.1)  # and not a multiple, by the number of parts


def test_class_weights_affect_the_predictions(tmp_path: Path, trained: Path, run: Run) -> None:
    run("--class-weights", "1,50", "--smoothing", "0")
    paths = [trained / "csv" / "tiny" / "valid" / f"{index}.png" for index in range(VALID)]
    weighted, usual = (made.slow_probabilities(folder / LAST, paths)[:, 1].mean() for folder in (tmp_path, trained))
    assert weighted > usual + 0.1


def test_a_budget_chooses_what_is_not_given(tmp_path: Path, trained: Path, work: Patch, capsys: Capture) -> None:
    options = ["--data", str(trained / "csv" / "tiny"), "--device", "cpu", "--precision", "fp32", "--batch-size", "8"]
    made.command(train, *options, "--epochs", "2", "--budget", "60")
    output = capsys.readouterr().out
    assert "budget: measuring steps of resnet18 at 128 px\n" in output
    assert "budget: 2 epochs up to 64 px; about " in output and "size: 64 px, by the budget\n" in output
    settings = read_about(tmp_path / BEST, "resnet18").settings
    assert (settings["size"], settings["epochs"], settings["progressive"]) == (64, 2, True)

    made.command(train, *options, "--epochs", "2", "--budget", "60")
    assert "resnet18: finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--budget: resnet50 needs .* for 1 epoch at 64 px, and has 0 s; give more"):
        made.command(train, *options, "--model", "resnet50", "--budget", "0.00001")
    assert not list((tmp_path / "weights" / "tiny" / "resnet50").glob("*.safetensors"))


# ---- invalid options and lists


@pytest.mark.parametrize(
    ("options", "message"),
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
        (["--budget", "0"], "--budget must be above 0"),
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
def test_an_option_out_of_range_is_refused(tmp_path: Path, run: Run, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*options)
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "report").exists()


def test_errors_in_the_lists_are_one_message_and_nothing_starts(trainer: Trainer, tmp_path: Path) -> None:
    """As a user sees it: no traceback, exit status 2, nothing written."""
    data = made.make_data(tmp_path / "csv" / "bad")
    (data / "train" / "3.png").unlink()
    (data / "train.csv").write_text((data / "train.csv").read_text().replace("./train/5.png,1", "./train/5.png,one"))
    before = made.outputs(tmp_path)
    done = trainer.script(tmp_path, "train.py", "--data", "bad", "--device", "cpu")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    for text in ("train.csv", "2 problems", "line 5: ./train/3.png does not exist", "line 7: label 'one'"):
        assert text in done.stderr
    assert made.outputs(tmp_path) == before
