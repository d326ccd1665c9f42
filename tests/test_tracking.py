"""Following a run by TensorBoard and MLflow: real event files, and a real MLflow server that hangs and is killed."""

from __future__ import annotations

import errno
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import FAST, LONG, PATIENCE, Trainer, about, assert_same_run, command, inside, make_data
from made import trained as trained_folder

import lab.tracking
import train
from lab import mlflow_process
from lab.errors import UserError
from lab.interrupt import Stopped
from lab.mlflow_process import NO_TELEMETRY, Training, follow, masked
from lab.ranks import Ranks
from lab.tracking import TensorBoard, Tracking, scalar_name, times, without_secrets

INSTALLED = bool(find_spec("mlflow") and find_spec("tensorboard"))
extras = pytest.mark.skipif(not INSTALLED, reason="needs mlflow and tensorboard (requirements-extras.txt)")
COLUMNS = ["train_accuracy", "test_accuracy", "train_loss", "test_loss", "learning_rate", "size"]
COLUMNS += ["seconds", "images_per_second"]


@pytest.fixture(scope="module")
def trained() -> Path:
    return trained_folder()


@pytest.fixture
def tracked(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Train in ``tmp_path`` as ``trained`` was trained, but followed."""
    monkeypatch.setattr(lab.tracking, "WAIT", PATIENCE)

    def train_tracked(*options: str | Path, figures: bool = False) -> None:
        with inside(tmp_path, figures=figures):
            command(train, "--data", trained / "csv" / "tiny", *FAST, *options)

    return train_tracked


@contextmanager
def at_epoch(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something in an epoch's end, once its history is written and before anybody is told."""
    write = train.write_history

    def written(path: Path, history: list[dict[str, float]]) -> None:
        write(path, history)
        if len(history) == number:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_history", written)
        yield


def stop() -> None:
    raise Stopped(signal.SIGINT)


def until(fulfilled: Callable[[], Any]) -> None:
    """Wait for another process."""
    limit = time.monotonic() + PATIENCE
    while not fulfilled():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.05)


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
    names = ["train_accuracy", "test_accuracy", "train_loss", "learning_rate", "size", "images_per_second"]
    expected = ["accuracy/train", "accuracy/test", "loss/train", "learning_rate", "size", "images_per_second"]
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


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Every curve that TensorBoard shows of a run; a step that is there twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return shown(EventAccumulator(str(folder)))


def shown(events: Any) -> dict[str, dict[int, float]]:
    events.Reload()
    found = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for points in found.values()), found
    return {name: dict(points) for name, points in found.items()}


def assert_shows_history(folder: Path, model: str = "resnet18") -> None:
    """TensorBoard shows every column of the history, epoch by epoch."""
    history = pd.read_csv(folder / "report" / "tiny" / f"history_{model}.csv").set_index("epoch")
    found = curves(folder / "report" / "tiny" / "tensorboard" / model)
    assert list(history) == COLUMNS and found.keys() == set(map(scalar_name, COLUMNS))
    for name in COLUMNS:
        assert found[scalar_name(name)] == pytest.approx(dict(history[name]), rel=1e-5), name


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
    assert list(shown(looking)["loss/test"]) == [1, 2]
    file = next(folder.iterdir())
    file.write_bytes(file.read_bytes()[:-7])  # as after a kill while it was written
    tracked("--track", "tensorboard")
    assert_same_run(trained, tmp_path)
    assert_shows_history(tmp_path)
    assert shown(looking) == curves(folder)
    tracked("--track", "tensorboard", "--fresh", "--epochs", "2")
    assert_shows_history(tmp_path)
    assert len(curves(folder)["loss/test"]) == 2


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
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: tensorboard")]
    assert len(said) == 1 and os.strerror(errno.ENOTDIR if fault == "no folder" else errno.ENOSPC) in said[0]


# ---- MLflow


class Server:
    """A real MLflow server on loopback, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        line = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        line += [
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination",
            str(folder / "artifacts"),
        ]
        # Jobs are of its other trades: eight more processes.
        environment = os.environ | NO_TELEMETRY | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return urllib.request.urlopen(f"{self.address}/health", timeout=PATIENCE).status == 200
            except OSError:
                return False

        until(answers)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


@pytest.fixture(scope="module", autouse=INSTALLED)
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one server of this file; it starts (for many seconds) while tests run that need none."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.signal(signal.SIGKILL)
    server.process.wait()


@pytest.fixture
def server(starting: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    starting.wait()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", starting.address)
    return starting


class Found:
    """What MLflow holds of a training."""

    def __init__(self, address: str, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in NO_TELEMETRY.items():
                patch.setenv(name, value)
            from mlflow import MlflowClient
        self.client = MlflowClient(address)
        self.training = (folder / "weights" / "tiny" / "resnet18" / "mlflow_id").read_text()

    def runs(self) -> list[Any]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return self.client.search_runs(experiments, f"tags.training = '{self.training}'")

    def run(self) -> Any:
        [run] = self.runs()
        return run

    def status(self) -> str:
        return "".join(run.info.status for run in self.runs())

    def points(self, name: str) -> list[tuple[int, float]]:
        found = [self.client.get_metric_history(run.info.run_id, name) for run in self.runs()]
        return sorted((point.step, point.value) for points in found for point in points)

    def artifacts(self) -> dict[str, bytes]:
        identity = self.run().info.run_id
        names = [file.path for file in self.client.list_artifacts(identity)]
        return {name: Path(self.client.download_artifacts(identity, name)).read_bytes() for name in names}

    def assert_whole(self, folder: Path) -> None:
        """Every column of the history is there, each epoch once, in one run."""
        history = pd.read_csv(folder / "report" / "tiny" / "history_resnet18.csv").set_index("epoch")
        assert list(history) == COLUMNS and self.status() == "FINISHED"
        for name in COLUMNS:
            assert self.points(name) == list(history[name].items()), name


@pytest.fixture
def found(server: Server, tmp_path: Path) -> Callable[[], Found]:
    return lambda: Found(server.address, tmp_path)


# Notes every place outside that a process wants to reach, and lets it reach none but this machine.
WATCH = """
import sys
def watch(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        place = given[0] if event != "socket.connect" else given[1][0] if isinstance(given[1], tuple) else "a file"
        with open({path!r}, "a") as file:
            file.write(f"{{place}}\\n")
        if place not in ("127.0.0.1", "localhost", "a file"):
            raise OSError("nothing leaves this machine")
sys.addaudithook(watch)
"""


@pytest.fixture
def reached(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """The places that processes started from here on wanted to reach. MLflow sends nothing where it takes itself to be tested,
    nor does it when it is told, so that neither is to be seen here."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH.format(path=str(folder / "places")))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))  # MLflow keeps a name for the installation there
    from mlflow.telemetry import utils

    assert utils.is_telemetry_disabled()
    for name in (*NO_TELEMETRY, "CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    return lambda: set((folder / "places").read_text().split("\n")) - {""}


@extras
def test_a_run_on_a_server(
    tmp_path: Path,
    trained: Path,
    tracked: Callable[..., None],
    found: Callable[[], Found],
    reached: Callable[[], set[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All of it: settings, record, epochs, figures, the best checkpoint; and nothing to anybody else."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    os.environ.pop("PYTEST_CURRENT_TEST", None)
    tracked("--track", "tensorboard", "mlflow", figures=True)
    events = EventAccumulator(str(tmp_path / "report/tiny/tensorboard/resnet18")).Reload()
    assert events.Tags()["images"] == ["preprocessing", "augmentation", "accuracy_comparison"]
    assert reached() == {"127.0.0.1"}
    assert_same_run(trained, tmp_path)
    there = found()
    there.assert_whole(tmp_path)
    run, said = there.run(), json.loads((tmp_path / "report/tiny/run_resnet18.json").read_text())
    assert run.info.run_name == "resnet18" and there.client.get_experiment(run.info.experiment_id).name == "tiny"
    assert {name: run.data.params[name] for name in said["settings"]} == {
        name: str(value) for name, value in said["settings"].items()
    }
    assert said["records"][0].items() <= run.data.tags.items()
    best = tmp_path / "weights/tiny/resnet18/best.safetensors"
    expected = {
        name: (tmp_path / "report/tiny" / name).read_bytes()
        for name in ("run_resnet18.json", "accuracy_comparison.png")
    }
    expected |= {
        name: (tmp_path / "report/tiny" / name).read_bytes() for name in ("preprocessing.png", "augmentation.png")
    }
    assert there.artifacts() == expected | {"best.safetensors": best.read_bytes()}
    accuracy = pd.read_csv(tmp_path / "report/tiny/history_resnet18.csv")["test_accuracy"].max()
    assert run.data.metrics["best_valid_accuracy"] == pytest.approx(accuracy, rel=1e-5)
    assert {"best_valid_accuracy_d4", "best_epoch"} <= run.data.metrics.keys()
    said_of_it = [line for text in capfd.readouterr() for line in text.splitlines() if line.startswith("mlflow")]
    assert said_of_it[0] == f"mlflow: resnet18 is sent to {os.environ['MLFLOW_TRACKING_URI']}"
    assert all("waiting" in line for line in said_of_it[1:])


@extras
def test_without_care_mlflow_would_reach_out(server: Server, reached: Callable[[], set[str]]) -> None:
    """So that the test above can fail."""
    code = "import mlflow, time; mlflow.MlflowClient().create_experiment('watched'); time.sleep(1)"
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=PATIENCE)
    assert any("telemetry" in place for place in reached())


@pytest.fixture
def sending(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[str]], list[str]]:
    """Does what the process does that sends, about a training that is there, with lines such as ``RUNNING 2``. Returns what it
    says."""
    for folder in ("report", "weights"):
        shutil.copytree(trained / folder, tmp_path / folder)
    weights = tmp_path / "weights" / "tiny" / "resnet18"
    (weights / "mlflow_id").write_text(os.urandom(16).hex())
    monkeypatch.setattr(mlflow_process, "ALONE", 0)  # no alarm for this process
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def send(lines: Iterable[str]) -> list[str]:
        said: list[str] = []
        best, identity = weights / "best.safetensors", (weights / "mlflow_id").read_text()
        chunks = (f"{line}\n".encode() if line else b"" for line in chain(lines, [""]))
        follow(Training("resnet18", tmp_path / "report" / "tiny", best, identity, None), chunks, said.append)
        return said

    return send


@extras
def test_what_is_there_is_not_sent_again(
    tmp_path: Path, found: Callable[[], Found], sending: Callable[[Iterable[str]], list[str]]
) -> None:
    """A run that was killed, went on twice, diverged, and ended; and then the same once more."""
    assert sending(["RUNNING 0", "RUNNING 1"]) == []
    assert found().status() == "KILLED" and found().points("size") == [(1, 32.0)]
    assert "best.safetensors" not in found().artifacts()
    assert sending(["RUNNING 1", "RUNNING 2", "FAILED 2"]) == []
    assert found().status() == "FAILED" and found().points("size") == [(1, 32.0), (2, 32.0)]
    for _ in range(2):
        assert sending(["RUNNING 2", "FINISHED 3"]) == []
        found().assert_whole(tmp_path)
    before = found().run()
    assert sending(["FINISHED 3"]) == []
    assert found().run().to_dictionary() == before.to_dictionary()


@extras
def test_a_request_that_was_heard_but_not_answered_is_not_counted_twice(
    tmp_path: Path,
    found: Callable[[], Found],
    sending: Callable[[Iterable[str]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor what was changed on the way: --patience may."""
    from mlflow import MlflowClient

    log, calls = MlflowClient.log_batch, []

    def heard(*given: Any, **more: Any) -> None:
        calls.append(log(*given, **more))
        if len(calls) == 2:
            raise TimeoutError("no answer")

    monkeypatch.setattr(MlflowClient, "log_batch", heard)
    cannot, late = sending(["RUNNING 1", "RUNNING 2", "FINISHED 3"])
    assert cannot == (
        "resnet18 cannot be sent now (TimeoutError: no answer); the training goes on, and each epoch tries again."
    )
    assert late == "resnet18 was sent whole in the end."
    found().assert_whole(tmp_path)
    path = tmp_path / "report/tiny/run_resnet18.json"
    said = json.loads(path.read_text())
    said["settings"]["patience"] = 7
    path.write_text(json.dumps(said))
    assert sending(["FINISHED 3"]) == []
    assert found().run().data.params["patience"] == "0" and found().run().data.tags["patience changed to"] == "7"


@extras
def test_files_that_cannot_be_stored_keep_no_numbers_back(
    tmp_path: Path,
    found: Callable[[], Found],
    sending: Callable[[Iterable[str]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        assert "3 of 3 epochs there (PermissionError" in sending(["RUNNING 2", "FINISHED 3"])[-1]
    found().assert_whole(tmp_path)
    assert found().artifacts() == {}
    assert sending(["FINISHED 3"]) == []  # the same command again
    assert {"best.safetensors", "run_resnet18.json"} <= found().artifacts().keys()


@extras
def test_another_training_is_another_run_even_in_an_experiment_of_another_name(
    tmp_path: Path,
    server: Server,
    found: Callable[[], Found],
    sending: Callable[[Iterable[str]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sending(["FINISHED 3"]) == []
    first = found().run().info
    (tmp_path / "weights/tiny/resnet18/mlflow_id").write_text("f" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of my own")
    assert sending(["FINISHED 3"]) == []
    second = found().run().info
    assert first.run_id != second.run_id and first.experiment_id != second.experiment_id
    assert found().client.get_experiment(second.experiment_id).name == "of my own"


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """A server that answers everything with this status; the address of one where nobody listens for 0, of one that accepts and
    never answers for 1."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"no")

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None: ...

    if status < 100:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            if status:
                deaf.listen(64)
            yield f"127.0.0.1:{deaf.getsockname()[1]}"
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@extras
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (0, "no connection"),
        (1, "no answer within 2 s"),
        (401, "it refuses with status 401, see MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (500, "it refuses with status 500"),
        (404, "it refuses with status 404"),
    ],
)
def test_what_is_wrong_with_a_server_is_said_once_and_at_the_end(
    sending: Callable[[Iterable[str]], list[str]], monkeypatch: pytest.MonkeyPatch, status: int, why: str
) -> None:
    with refusing(status) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:geheim@{address}")
        said = sending(["RUNNING 0", "RUNNING 1", "RUNNING 2", "FINISHED 3"])
    assert said == [
        f"resnet18 cannot be sent now ({why}); the training goes on, and each epoch tries again.",
        f"resnet18 was not sent whole, 0 of 3 epochs there ({why}); start the same command again to send the rest.",
    ]


@extras
def test_a_training_with_a_deaf_server_is_the_same_training(
    tmp_path: Path,
    trained: Path,
    tracked: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The command ends, though nobody answers, and says no password."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
    with refusing(1) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:geheim@{address}")
        monkeypatch.setattr(lab.tracking, "WAIT", 1.0)
        tracked("--track", "mlflow")
    assert_same_run(trained, tmp_path)
    text = "".join(capfd.readouterr())
    assert f"mlflow: resnet18 is sent to http://{address}\n" in text and "geheim" not in text
    assert "mlflow: not all was sent in time; start the same command again to send the rest." in text


@extras
def test_by_default_a_database_in_the_reports_folder(
    tmp_path: Path,
    trained: Path,
    tracked: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Made whole, with its files beside it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked("--track", "mlflow", "--epochs", "1")
    there = Found(f"sqlite:///{tmp_path}/report/mlflow.db", tmp_path)
    there.assert_whole(tmp_path)
    assert "best.safetensors" in there.artifacts()
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"mlflow.db", "mlflow", ".mlflow.lock", "tiny"}
    assert "shown by `mlflow ui --backend-store-uri sqlite:///report/mlflow.db`" in capfd.readouterr().out


@extras
def test_a_run_that_is_killed_goes_on_as_one_run(
    tmp_path: Path, server: Server, found: Callable[[], Found], uninterrupted: tuple[Path, float]
) -> None:
    """SIGKILL: MLflow learns of it, and what went on is one run of eight epochs; TensorBoard's too."""
    make_data(tmp_path / "csv" / "tiny")
    trainer = Trainer(SNAPSHOT="0")
    (tmp_path / "hold").write_text("20")
    process = trainer.start(tmp_path, *LONG, "--track", "mlflow", "tensorboard")
    trainer.until_held(tmp_path, process)
    until(lambda: found().points("size"))
    os.kill(process, signal.SIGKILL)
    assert trainer.status() == -signal.SIGKILL
    until(lambda: found().status() == "KILLED")
    assert [step for step, _ in found().points("size")] == [1, 2, 3]
    (tmp_path / "hold").unlink()
    trainer.start(tmp_path, *LONG, "--track", "mlflow", "tensorboard")
    assert trainer.status() == 0, (tmp_path / "stderr").read_text()
    trainer.close()
    assert_same_run(uninterrupted[0], tmp_path)
    found().assert_whole(tmp_path)
    assert_shows_history(tmp_path)


@extras
def test_a_server_that_hangs_is_sent_everything_once_it_is_back(
    tmp_path: Path, server: Server, found: Callable[[], Found], sending: Callable[[Iterable[str]], list[str]]
) -> None:
    def lines() -> Iterator[str]:
        yield "RUNNING 1"
        server.signal(signal.SIGSTOP)
        yield "RUNNING 2"
        server.signal(signal.SIGCONT)
        yield "FINISHED 3"

    cannot, late = sending(lines())
    assert "(no answer within 2 s)" in cannot and late == "resnet18 was sent whole in the end."
    found().assert_whole(tmp_path)


@extras
def test_a_server_that_hangs_and_is_killed_stops_no_training(
    tmp_path: Path,
    trained: Path,
    server: Server,
    tracked: Callable[..., None],
    found: Callable[[], Found],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The last test of this file: there is no server after it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    text = ""

    def hear(words: str) -> bool:
        nonlocal text
        text += "".join(capfd.readouterr())
        return words in text

    def hang() -> None:
        until(lambda: found().points("size"))
        server.signal(signal.SIGSTOP)

    def die() -> None:
        until(lambda: hear("mlflow: resnet18 cannot be sent now (no answer within 5 s); the training goes on"))
        server.signal(signal.SIGKILL)

    with at_epoch(2, hang), at_epoch(3, die):
        tracked("--track", "mlflow")
    assert hear(
        "mlflow: resnet18 was not sent whole, 1 of 3 epochs there (no connection); start the same command again"
    )
    assert_same_run(trained, tmp_path)
