"""Following a run by MLflow: a real server, one that hangs, one that refuses, one that is killed."""

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
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import lab.tracking
from lab import mlflow_process
from lab.mlflow_process import NO_TELEMETRY, Training, follow
from tests.made import LONG, PATIENCE, Trainer, assert_same_run, make_data
from tests.made_tracking import COLUMNS, INSTALLED, assert_shows_history, at_epoch, extras, until


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
    accuracy = pd.read_csv(tmp_path / "report/tiny/history_resnet18.csv")["valid_accuracy"].max()
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
