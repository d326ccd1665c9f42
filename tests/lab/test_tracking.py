"""Following a run: what is asked for and what is told, and TensorBoard by its real event files."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from lab.distributed import Ranks
from lab.errors import UserError
from lab.mlflow_process import masked
from lab.signals import Stopped
from lab.tracking import TensorBoard, Tracking, scalar_name, times, without_secrets
from tests.made import about, assert_same_run
from tests.made_tracking import COLUMNS, assert_shows_history, at_epoch, curves, extras, shown


def stop() -> None:
    raise Stopped(signal.SIGINT)


# ---- nothing asked for, or nothing there


def test_without_the_option_nothing_is_imported_or_written(
    tmp_path: Path, trained: Path, tracked: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlflow", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error
    tracked()
    assert_same_run(trained, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if "mlflow" in path.name or "tensorboard" in path.name]


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_what_is_not_installed_is_one_sentence_before_anything_is_done(
    tmp_path: Path, tracked: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as error:
        tracked("--track", name)
    words = f"--track {name}: {name} is not installed; `pip install -r requirements-extras.txt -c constraints.txt` installs it."
    assert str(error.value) == words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_of_several_processes_is_followed(
    tracked: Callable[..., None], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    class Asked(Exception):
        pass

    def ask(tools: list[str], _: Path) -> None:
        raise Asked(tools)

    monkeypatch.setattr(train, "join", lambda: Ranks(rank, 2))
    monkeypatch.setattr(train, "Tracking", ask)
    with pytest.raises(Asked) as asked:
        tracked("--track", "tensorboard", "mlflow")
    assert asked.value.args == (([] if rank else ["tensorboard", "mlflow"]),)


def test_a_fresh_training_is_another_than_the_one_before(tmp_path: Path, tracked: Callable[..., None]) -> None:
    """Whether or not it is followed; what goes on is the same."""
    identity = tmp_path / "weights" / "tiny" / "resnet18" / "mlflow_id"
    with at_epoch(2, stop), pytest.raises(Stopped):
        tracked()
    identity.write_text("of the training that goes on")
    tracked()
    assert identity.exists()
    tracked("--fresh", "--epochs", "1")
    assert not identity.exists()


# ---- what is shown


def test_epochs_of_earlier_starts_are_shown_as_trained_without_a_pause() -> None:
    assert times([{"seconds": 5.0}, {"seconds": 2.0}, {"seconds": 3.0}], 100.0) == [95.0, 97.0, 100.0]
    assert times([], 100.0) == []


def test_columns_of_a_history_are_grouped() -> None:
    names = ["train_accuracy", "valid_accuracy", "train_loss", "learning_rate", "size", "images_per_second"]
    expected = ["accuracy/train", "accuracy/valid", "loss/train", "learning_rate", "size", "images_per_second"]
    assert list(map(scalar_name, names)) == expected


@pytest.mark.parametrize(
    ("ended_by", "status"),
    [(None, "FINISHED"), (Stopped(2), "KILLED"), (UserError("the loss"), "FAILED"), (OSError(), "FAILED")],
)
def test_how_a_command_ends_is_how_the_run_ends(tmp_path: Path, ended_by: BaseException | None, status: str) -> None:
    told = []

    class Tool:
        def end(self, _: object, status: str) -> None:
            told.append(status)

    tracking = Tracking([], tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises((type(ended_by),) if ended_by else AssertionError):
        patch.setattr(tracking, "about", about())
        patch.setattr(tracking, "following", {"tool": Tool()})
        with tracking:
            if ended_by:
                raise ended_by
        raise AssertionError
    assert told == [status]


NAMES = st.text(
    st.characters(exclude_characters="/@?#[]:\\", exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"]), min_size=6
)


@settings(max_examples=30)
@given(NAMES, NAMES)
def test_no_password_is_said(user: str, password: str) -> None:
    address = f"https://{user}:{password}@tracking.example:5000/prefix"
    assert without_secrets(address) == "https://tracking.example:5000/prefix"
    assert (
        masked(f"API request to {address} failed") == "API request to https://***@tracking.example:5000/prefix failed"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", {"MLFLOW_TRACKING_PASSWORD": password})
        assert password not in masked(f"the server said {password!s}")


# ---- TensorBoard


@extras
def test_tensorboard_shows_settings_and_epochs_and_changes_nothing(
    tmp_path: Path, trained: Path, tracked: Callable[..., None]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked("--track", "tensorboard")
    assert_same_run(trained, tmp_path)
    assert_shows_history(tmp_path)
    events = EventAccumulator(str(tmp_path / "report/tiny/tensorboard/resnet18")).Reload()
    said = {
        name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("settings", "made with")
    }
    assert "| optimizer | sgd |" in said["settings"] and "| lr | 0.1 |" in said["settings"]
    assert "| precision | fp32 |" in said["made with"] and "| images | " in said["made with"]
    assert events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"


@extras
def test_tensorboard_shows_no_epoch_twice_of_a_run_that_went_on(
    tmp_path: Path, trained: Path, tracked: Callable[..., None]
) -> None:
    """Neither to who looks anew nor to who has been looking all the time; and --fresh begins a new curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "report/tiny/tensorboard/resnet18"
    with at_epoch(3, stop), pytest.raises(Stopped):
        tracked("--track", "tensorboard")
    looking = EventAccumulator(str(folder))
    assert list(shown(looking)["loss/valid"]) == [1, 2]
    file = next(folder.iterdir())
    file.write_bytes(file.read_bytes()[:-7])  # as after a kill while it was written
    tracked("--track", "tensorboard")
    assert_same_run(trained, tmp_path)
    assert_shows_history(tmp_path)
    assert shown(looking) == curves(folder)
    tracked("--track", "tensorboard", "--fresh", "--epochs", "2")
    assert_shows_history(tmp_path)
    assert len(curves(folder)["loss/valid"]) == 2


@extras
def test_a_run_that_went_back_to_its_last_checkpoint_is_followed_on(tmp_path: Path) -> None:
    """It begins again, with the epochs that its checkpoint knows."""
    rows = [dict.fromkeys(COLUMNS, float(epoch)) | {"epoch": epoch} for epoch in (1, 2, 3)]
    tracking = Tracking(["tensorboard"], tmp_path)
    with tracking:
        for known, new in ((rows[:1], rows[1]), (rows[:2], rows[2])):
            run = about(data="tiny", history=list(known))
            tracking.begin(run, tmp_path / "best.safetensors")
            run.history.append(new)
            tracking.epoch()
    assert curves(tmp_path / "tiny" / "tensorboard" / "resnet18")["size"] == {1: 1.0, 2: 2.0, 3: 3.0}


@extras
def test_an_untracked_run_can_be_shown_later(tmp_path: Path, trained: Path, tracked: Callable[..., None]) -> None:
    tracked()
    tracked("--track", "tensorboard")  # finished already
    assert_same_run(trained, tmp_path)
    assert_shows_history(tmp_path)


@extras
@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_tensorboard_without_room_is_one_sentence_and_the_training_goes_on(
    tmp_path: Path,
    trained: Path,
    tracked: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    if fault == "no folder":
        (tmp_path / "report" / "tiny").mkdir(parents=True)
        (tmp_path / "report" / "tiny" / "tensorboard").touch()
    else:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(TensorBoard, "show", lambda *_: (_ for _ in ()).throw(full))
    tracked("--track", "tensorboard")
    assert_same_run(trained, tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: tensorboard")]
    assert len(said) == 1 and os.strerror(errno.ENOTDIR if fault == "no folder" else errno.ENOSPC) in said[0]
