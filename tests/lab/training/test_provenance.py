"""What a run was made with: kept, compared when it goes on, and enough to make it again."""

from __future__ import annotations

import ast
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import train
from lab.checkpoints.checkpoint import TrainingState, read_about, read_tensors, save_checkpoint
from lab.errors import UserError
from lab.hardware import Hardware, choose_hardware
from lab.signals import Stopped
from lab.training.provenance import differences, git_state, make_record, read_run, source_digest, source_files
from tests.made import DEPTHS, FAST, LAST, TRAIN, VALID, assert_same_run, command, make_data
from tests.test_no_library_model import PROJECT, imported_files

CPU = Hardware(torch.device("cpu"), "fp32")


def stop_after_an_epoch(patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C once the first epoch is kept."""

    def stopping(*_: object) -> None:
        raise Stopped(2)

    patch.setattr(train, "epoch_line", stopping)


# ---- the record


def test_a_run_keeps_what_it_was_made_with(trained: Path) -> None:
    for model in DEPTHS:
        about = read_about(trained / "weights" / "tiny" / model / "best.safetensors")
        (record,) = about.records
        assert record["torch"] == torch.__version__ and record["precision"] == "fp32" and record["processes"] == "1"
        assert record["device"].startswith("cpu (") and record["deterministic"] == "yes"
        assert len(record["images"]) == len(record["source"]) == 64
        kept = json.loads((trained / "report" / "tiny" / f"run_{model}.json").read_text())
        assert kept["records"] == about.records and kept["settings"] == about.settings and kept["lists"] == about.lists
    other = read_about(trained / "weights" / "other" / "resnet18" / "best.safetensors")
    assert other.records[0]["images"] != about.records[0]["images"]


def test_records_differ_in_what_they_are_asked_about() -> None:
    one = make_record(CPU, 1, ["a", "b"])
    assert differences(one, make_record(CPU, 1, ["a", "b"])) == []
    assert differences(one, make_record(CPU, 1, ["b", "a"])) == ["images"]
    other = make_record(Hardware(torch.device("cpu"), "bf16"), 2, ["a", "b"]) | {"git": "elsewhere"}
    assert differences(one, other) == ["precision fp32 → bf16", "processes 1 → 2"]
    assert differences({}, one) == []  # an earlier version's says nothing of it


def test_the_source_digest_sees_every_line_that_trains(tmp_path: Path) -> None:
    rooms = ("resnet/one.py", "models/two.py", "lab/data/three.py", "lab/training/deep/four.py", "lab/cpu/five.py")
    trains = ("train.py", "lab/hardware.py", "lab/distributed.py", *rooms)
    others = ("tests/three.py", "lab/page/html.py", "lab/report/sections.py", "lab/figures/style.py", "evaluate.py")
    for name in (*trains, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    seen = {source_digest(tmp_path)}
    for name in trains:
        (tmp_path / name).write_text("2")
        assert source_digest(tmp_path) not in seen
        seen.add(source_digest(tmp_path))
    for name in others:
        (tmp_path / name).write_text("2")
        assert source_digest(tmp_path) in seen


def test_the_source_digest_leaves_out_no_file_that_training_imports() -> None:
    """Of what ``train.py`` imports, directly or not, all counts but the rooms that only show or keep what it computes."""
    shows = {"checkpoints", "evaluation", "figures", "tracking"}
    shared = {"errors", "files", "options", "signals", "tables", "terminal", "text", "tracking", "__init__"}
    reached, waiting = set(), {PROJECT / "train.py"}
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting |= imported_files(ast.parse(path.read_text(encoding="utf-8")), path, PROJECT) - reached
    needed = {
        path
        for path in reached
        if path.parent.name not in shows and not (path.parent.name == "lab" and path.stem in shared)
    }
    assert len(needed) > 15
    assert needed - set(source_files()) == set()


def test_git_says_which_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "inner").mkdir(parents=True)
    (project / "file").write_text("1")
    assert git_state(project) == "none"
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init"], ["add", "file"], [*name, "commit", "-m", "first"]):
        subprocess.run(["git", "-C", project, *words], check=True, capture_output=True)
    commit = git_state(project)
    assert len(commit) == 40
    assert git_state(project / "inner") == "none"  # unpacked into somebody else's repository
    (project / "file").write_text("2")
    assert git_state(project) == f"{commit} with changes"
    monkeypatch.setenv("PATH", "")
    assert git_state(project) == "none"  # no git here


# ---- going on


def test_going_on_elsewhere_is_said_and_kept(
    tmp_path: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "csv" / "tiny")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after_an_epoch(patch)
        patch.setattr(torch, "__version__", "2.0.0")
        command(train, "--data", "tiny", *FAST)
    command(train, "--data", "tiny", *FAST)
    said = "resumes with changes that may alter the last digits"
    assert f"{said}: torch 2.0.0 → {torch.__version__}" in capsys.readouterr().out
    assert [record["torch"] for record in read_about(tmp_path / LAST).records] == ["2.0.0", torch.__version__]


def test_images_that_have_changed_since_a_run_began_are_refused(tmp_path: Path, work: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "csv" / "tiny")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after_an_epoch(patch)
        command(train, "--data", "tiny", *FAST)
    before = (tmp_path / LAST).read_bytes()
    Image.new("RGB", (48, 48), "purple").save(data / "valid" / "0.png")
    with pytest.raises(UserError, match=r"images of csv/tiny have changed since this run began; --fresh starts over"):
        command(train, "--data", "tiny", *FAST)
    assert (tmp_path / LAST).read_bytes() == before
    command(train, "--data", "tiny", *FAST, "--fresh")


def test_a_best_of_another_run_is_not_gone_on_with(tmp_path: Path, trained: Path, work: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "csv" / "tiny")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after_an_epoch(patch)
        command(train, "--data", "tiny", *FAST)
    best = tmp_path / LAST.with_name("best.safetensors")
    best.write_bytes((trained / "weights" / "other" / "resnet18" / "best.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"best.safetensors: is of another run than last.safetensors; put back its own"):
        command(train, "--data", "tiny", *FAST)


def test_patience_may_change_on_the_way(
    tmp_path: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "csv" / "tiny")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after_an_epoch(patch)
        command(train, "--data", "tiny", *FAST)
    with pytest.raises(
        UserError, match=r"\(lr 0.1 → 0.3\), which cannot change on the way.*\(patience 0 → 1 could change\)"
    ):
        command(train, "--data", "tiny", *FAST, "--patience", "1", "--lr", "0.3")
    command(train, "--data", "tiny", *FAST, "--patience", "1")
    assert "patience 0 → 1, used from here on" in capsys.readouterr().out
    assert read_about(tmp_path / LAST).settings["patience"] == 1


# ---- once more


def test_a_run_is_repeated_from_its_weights_alone(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given the folder of a run and its data, the same weights come out, bit for bit."""
    make_data(tmp_path / "csv" / "tiny")
    command(train, "--like", trained / LAST.parent, "--device", "cpu")
    assert "nothing has changed, so the weights will be the same" in capsys.readouterr().out
    assert_same_run(trained, tmp_path)


def test_what_is_asked_otherwise_and_what_is_otherwise_is_said(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "csv" / "tiny", seed=5)
    command(train, "--like", trained / LAST, "--epochs", "1", "--model", "resnet50", "--device", "cpu")
    said = capsys.readouterr().out
    assert "resnet18 on tiny, but with model resnet18 → resnet50; epochs 3 → 1" in said
    assert "with other settings, so with other weights in the end" in said
    about = read_about(tmp_path / "weights" / "tiny" / "resnet50" / "last.safetensors")
    assert about.settings["epochs"] == 1 and about.settings["lr"] == 0.1 and about.records[0]["precision"] == "fp32"


def test_other_images_are_said(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "csv" / "tiny")
    Image.new("RGB", (48, 48), "purple").save(data / "valid" / "0.png")
    command(train, "--like", trained / LAST, "--device", "cpu")
    assert "the weights may differ, because this has changed: images" in capsys.readouterr().out


def test_a_run_that_diverged_is_no_promise(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "csv" / "tiny")
    about = read_about(trained / LAST)
    save_checkpoint(tmp_path / "old" / "best.safetensors", about, {}, TrainingState(lr_factor=0.5))
    command(train, "--like", tmp_path / "old", "--device", "cpu")
    assert "it diverged, or was resumed with changes" in capsys.readouterr().out


def test_a_run_is_not_repeated_onto_itself(tmp_path: Path, work: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "csv" / "tiny")
    command(train, "--data", "tiny", *FAST)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(UserError, match=r"is the run itself; give other --weights and --report to repeat it"):
        command(train, "--like", LAST.parent, "--device", "cpu")
    assert (tmp_path / LAST).read_bytes() == before
    command(train, "--like", LAST.parent, "--device", "cpu", "--weights", "again", "--report", "again")


def test_lists_elsewhere_must_be_named(tmp_path: Path, trained: Path, work: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"no lists found for --data tiny.*name the lists of the run.*--data and --root"
    ):
        command(train, "--like", trained / LAST, "--device", "cpu")


@pytest.mark.parametrize("values", [{"settings": {}}, {"members": 2}])
def test_what_is_no_run_is_not_repeated(tmp_path: Path, trained: Path, values: dict[str, object]) -> None:
    about = replace(read_about(trained / LAST), **values)  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "best.safetensors", about, {})
    with pytest.raises(UserError, match=r"is not a training that could be repeated"):
        read_run(tmp_path)


def test_a_run_that_does_not_exist_is_said(tmp_path: Path, work: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"weights/none/best.safetensors: there is no such checkpoint"):
        command(train, "--like", "weights/none")


def test_the_best_alone_is_enough_to_repeat(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes((trained / LAST.with_name("best.safetensors")).read_bytes())
    assert read_run(tmp_path)[0].settings == read_run(trained / LAST)[0].settings


# ---- the same bits


@pytest.mark.parametrize("how", ["one thread decodes", "the store lies on the device"])
def test_where_images_come_from_changes_no_bit(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "csv" / "tiny")
    if how == "one thread decodes":
        work.setattr("lab.data.store.decoding_threads", lambda: 1)
    else:
        work.setattr("lab.data.batches.fits_on", lambda *_: True)
    command(train, "--data", "tiny", *FAST)
    if how == "the store lies on the device":
        said = capsys.readouterr().out
        assert f"images: {TRAIN} kept on the cpu" in said and f"images: {VALID} kept on the cpu" in said
    assert_same_run(trained, tmp_path)


def test_deterministic_says_so_and_changes_nothing_on_the_cpu(
    tmp_path: Path, trained: Path, work: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        command(train, "--data", trained / "csv" / "tiny", *FAST, "--deterministic")
        assert torch.are_deterministic_algorithms_enabled()
        assert "deterministic: the same start gives the same bits; as the CPU always is" in capsys.readouterr().out
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = (read_tensors(folder / LAST) for folder in (trained, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert choose_hardware("cpu", "fp32") == CPU and not torch.are_deterministic_algorithms_enabled()
