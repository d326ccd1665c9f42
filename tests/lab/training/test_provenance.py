"""The record of a run: saved, compared when the run is resumed, and sufficient to repeat the run."""

from __future__ import annotations

import ast
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import train
from lab.checkpoints.checkpoint import TrainingState, read_about, read_tensors, save_checkpoint
from lab.errors import UserError
from lab.hardware import Hardware, choose_hardware
from lab.training.provenance import differences, git_state, make_record, read_run, source_digest, source_files
from tests import made
from tests.made import BEST, DEPTHS, FAST, LAST, TRAIN, VALID, Capture, Patch, Run
from tests.test_no_library_model import PROJECT, imported_files

CPU = Hardware(torch.device("cpu"), "fp32")
LIKE = ["--device", "cpu", "--like"]


@pytest.fixture
def data(tmp_path: Path, work: Patch) -> Path:
    """The lists of ``trained``, in the working directory."""
    return made.make_data(tmp_path / "csv" / "tiny")


# ---- the record


def test_a_run_saves_its_record(trained: Path) -> None:
    for model in DEPTHS:
        about = read_about(trained / "weights" / "tiny" / model / "best.safetensors")
        (record,) = about.records
        assert record["torch"] == torch.__version__ and record["precision"] == "fp32" and record["processes"] == "1"
        assert record["device"] == "cpu" and record["deterministic"] == "yes"
        assert len(record["images"]) == len(record["source"]) == 64
        saved = json.loads((trained / "report" / "tiny" / f"run_{model}.json").read_text())
        assert saved["records"] == about.records and saved["settings"] == about.settings
        assert saved["lists"] == about.lists
    other = read_about(trained / "weights" / "other" / "resnet18" / "best.safetensors")
    assert other.records[0]["images"] != about.records[0]["images"]


def test_differences_of_two_records() -> None:
    one = make_record(CPU, 1, ["a", "b"])
    assert differences(one, make_record(CPU, 1, ["a", "b"])) == []
    assert differences(one, make_record(CPU, 1, ["b", "a"])) == ["images"]
    other = make_record(Hardware(torch.device("cpu"), "bf16"), 2, ["a", "b"]) | {"git": "elsewhere"}
    assert differences(one, other) == ["precision fp32 → bf16", "processes 1 → 2"]
    assert differences({}, one) == []  # a record of an earlier version lacks the fields


def test_the_source_digest_depends_on_the_code_that_trains_alone(tmp_path: Path) -> None:
    folders = ("resnet/one.py", "models/two.py", "lab/data/three.py", "lab/training/deep/four.py", "lab/cpu/five.py")
    trains = ("train.py", "lab/hardware.py", "lab/threads.py", "lab/distributed.py", *folders)
    others = ("tests/three.py", "lab/page/html.py", "lab/report/sections.py", "lab/figures/style.py", "evaluate.py")
    for name in (*trains, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    digests = {source_digest(tmp_path)}
    for name in trains:
        (tmp_path / name).write_text("2")
        assert source_digest(tmp_path) not in digests
        digests.add(source_digest(tmp_path))
    for name in others:
        (tmp_path / name).write_text("2")
        assert source_digest(tmp_path) in digests


def test_the_source_digest_leaves_out_no_file_that_training_imports() -> None:
    """All files that ``train.py`` imports, directly or not, except modules that only save or show what it computes."""
    folders = {"checkpoints", "evaluation", "figures"}
    modules = {"errors", "files", "options", "signals", "tables", "terminal", "text", "tracking", "__init__"}
    reached, waiting = set(), {PROJECT / "train.py"}
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting |= imported_files(ast.parse(path.read_text(encoding="utf-8")), path, PROJECT) - reached
    needed = {path for path in reached if path.parent.name not in folders}
    needed -= {PROJECT / "lab" / f"{name}.py" for name in modules}
    assert len(needed) > 15
    assert needed - set(source_files()) == set()


def test_the_git_state_is_the_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: Patch) -> None:
    project = tmp_path / "project"
    (project / "inner").mkdir(parents=True)
    (project / "file").write_text("1")
    assert git_state(project) == "none"
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for line in (["init"], ["add", "file"], [*name, "commit", "-m", "first"]):
        subprocess.run(["git", "-C", project, *line], check=True, capture_output=True)
    commit = git_state(project)
    assert len(commit) == 40
    assert git_state(project / "inner") == "none"  # unpacked within another repository
    (project / "file").write_text("2")
    assert git_state(project) == f"{commit} with changes"
    monkeypatch.setenv("PATH", "")
    assert git_state(project) == "none"  # no git here


# ---- resuming


def test_a_run_resumed_with_another_version_prints_and_saves_it(tmp_path: Path, run: Run, capsys: Capture) -> None:
    with pytest.MonkeyPatch.context() as patch, made.interrupted():
        patch.setattr(torch, "__version__", "2.0.0")
        run()
    run()
    text = "resumes with changes that may alter the last digits"
    assert f"{text}: torch 2.0.0 → {torch.__version__}" in capsys.readouterr().out
    assert [record["torch"] for record in read_about(tmp_path / LAST).records] == ["2.0.0", torch.__version__]


def test_a_best_checkpoint_of_another_run_is_refused(tmp_path: Path, trained: Path, run: Run) -> None:
    with made.interrupted():
        run()
    other = trained / "weights" / "other" / "resnet18" / "best.safetensors"
    (tmp_path / BEST).write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=r"best.safetensors: is of another run than last.safetensors; put back its own"):
        run()


def test_patience_may_change_when_a_run_is_resumed(tmp_path: Path, run: Run, capsys: Capture) -> None:
    with made.interrupted():
        run()
    refused = r"\(lr 0.1 → 0.3\), which cannot change; .*\(patience 0 → 1 could change\)"
    with pytest.raises(UserError, match=refused):
        run("--patience", "1", "--lr", "0.3")
    run("--patience", "1")
    assert "patience 0 → 1, used from here on" in capsys.readouterr().out
    assert read_about(tmp_path / LAST).settings["patience"] == 1


# ---- repeating a run


def test_a_run_is_repeated_from_its_weights_alone(tmp_path: Path, trained: Path, data: Path, capsys: Capture) -> None:
    """With the folder of a run and its data, the weights are the same, bit for bit."""
    made.command(train, *LIKE, trained / LAST.parent)
    assert "nothing has changed, so the weights will be the same" in capsys.readouterr().out
    made.assert_same_run(trained, tmp_path)


def test_other_options_and_their_effect_are_printed(tmp_path: Path, trained: Path, data: Path, capsys: Capture) -> None:
    made.command(train, *LIKE, trained / LAST, "--epochs", "1", "--model", "resnet50")
    output = capsys.readouterr().out
    assert "resnet18 on tiny, but with model resnet18 → resnet50; epochs 3 → 1" in output
    assert "the settings differ, so the weights will differ" in output
    about = read_about(tmp_path / "weights" / "tiny" / "resnet50" / "last.safetensors")
    assert about.settings["epochs"] == 1 and about.settings["lr"] == 0.1 and about.records[0]["precision"] == "fp32"


def test_other_images_are_printed(trained: Path, data: Path, capsys: Capture) -> None:
    Image.new("RGB", (48, 48), "purple").save(data / "valid" / "0.png")
    made.command(train, *LIKE, trained / LAST)
    assert "the weights may differ, because this has changed: images" in capsys.readouterr().out


def test_a_run_that_diverged_may_not_be_repeatable(tmp_path: Path, trained: Path, data: Path, capsys: Capture) -> None:
    save_checkpoint(tmp_path / "old.safetensors", read_about(trained / LAST), {}, TrainingState(lr_factor=0.5))
    made.command(train, *LIKE, tmp_path / "old.safetensors")
    assert "it diverged, or was resumed with changes" in capsys.readouterr().out


def test_a_run_is_not_repeated_in_its_own_folder(tmp_path: Path, data: Path) -> None:
    made.command(train, "--data", "tiny", *FAST)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(UserError, match=r"is the run itself; give other --weights and --report to repeat it"):
        made.command(train, *LIKE, LAST.parent)
    assert (tmp_path / LAST).read_bytes() == before
    made.command(train, *LIKE, LAST.parent, "--weights", "again", "--report", "again")


def test_a_run_without_its_lists_or_checkpoints_is_an_error(trained: Path, work: Patch) -> None:
    message = "no lists found for --data tiny.*name the lists of the repeated run with --data and --root"
    with pytest.raises(UserError, match=message):
        made.command(train, *LIKE, trained / LAST)
    with pytest.raises(UserError, match=r"weights/none/best.safetensors: there is no such checkpoint"):
        made.command(train, *LIKE, "weights/none")


@pytest.mark.parametrize("values", [{"settings": {}}, {"members": 2}])
def test_imported_and_averaged_weights_are_not_repeated(
    tmp_path: Path, trained: Path, values: dict[str, object]
) -> None:
    about = replace(read_about(trained / LAST), **values)  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "best.safetensors", about, {})
    with pytest.raises(UserError, match=r"is not a training that can be repeated"):
        read_run(tmp_path)


def test_the_best_checkpoint_alone_is_enough_to_repeat_a_run(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes((trained / BEST).read_bytes())
    assert read_run(tmp_path)[0].settings == read_run(trained / LAST)[0].settings


# ---- the same bits


@pytest.mark.parametrize(
    ("function", "value", "on_device"), [("store.decoding_threads", 1, 0), ("batches.fits_on", True, 1)]
)
def test_where_images_come_from_changes_no_bit(
    tmp_path: Path, trained: Path, work: Patch, run: Run, capsys: Capture, function: str, value: Any, on_device: int
) -> None:
    """Decoded by one thread, and from a store on the device."""
    work.setattr(f"lab.data.{function}", lambda *_: value)
    run()
    output = capsys.readouterr().out
    assert [output.count(f"images: {count} kept on the cpu") for count in (TRAIN, VALID)] == [on_device] * 2
    made.assert_same_run(trained, tmp_path)


def test_deterministic_changes_nothing_on_the_cpu(
    tmp_path: Path, trained: Path, work: Patch, run: Run, capsys: Capture
) -> None:
    work.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        run("--deterministic")
        assert torch.are_deterministic_algorithms_enabled()
        assert (
            "deterministic: the same start gives the same bits, with the number of threads fixed"
            in capsys.readouterr().out
        )
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = (read_tensors(folder / LAST) for folder in (trained, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert choose_hardware("cpu", "fp32") == CPU and not torch.are_deterministic_algorithms_enabled()
