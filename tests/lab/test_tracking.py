"""Tracking: TensorBoard by its event files, MLflow by a real local store and by servers that fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pandas as pd
import pytest
import torch
from PIL import Image

import lab.tracking
import train
from lab.checkpoints.checkpoint import load_network
from lab.distributed import Ranks
from lab.errors import UserError
from lab.tracking import MLflow, Tool, Tracking, mlflow_client
from tests import made
from tests.made import BEST, HISTORY, Patch

MISSING = not (find_spec("mlflow") and find_spec("tensorboard"))
extras = pytest.mark.skipif(MISSING, reason="needs mlflow and tensorboard (requirements-extras.txt)")
COLUMNS = ["train_accuracy", "valid_accuracy", "train_loss", "valid_loss", "learning_rate", "size", "seconds"]
COLUMNS += ["images_per_second", "valid_precision", "valid_recall", "valid_f1"]
CURVES = ["accuracy/train", "accuracy/valid", "loss/train", "loss/valid", *COLUMNS[4:8]]
CURVES += ["precision/valid", "recall/valid", "f1/valid"]
Train = Callable[..., list[str]]


@pytest.fixture
def tracked(tmp_path: Path, trained: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]) -> Train:
    """Trains in ``tmp_path`` with tracking, and returns the lines of output about it. The weights must be those of ``trained``,
    unless there are more options."""
    monkeypatch.setattr(lab.tracking, "WAIT", made.PATIENCE)
    monkeypatch.setattr(lab.tracking, "WAIT_STOPPED", made.PATIENCE)
    monkeypatch.setattr(lab.tracking, "export_apart", lambda _, folder: folder.mkdir())  # takes seconds

    def train_tracked(*options: str) -> list[str]:
        capfd.readouterr()
        with made.inside(tmp_path, figures=False):
            made.command(train, "--data", str(trained / "csv" / "tiny"), *made.FAST, *options)
        if len(options) <= 2:
            made.assert_same_run(trained, tmp_path)
        lines = "\n".join(capfd.readouterr()).splitlines()
        return [line for line in lines if any(word in line.lower() for word in ("mlflow", "tensorboard", "alembic"))]

    return train_tracked


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / HISTORY).set_index("epoch")[COLUMNS]


# ---- messages


@pytest.mark.parametrize("error, status", [(EOFError, "FINISHED"), (KeyboardInterrupt, "KILLED"), (OSError, "FAILED")])
def test_a_tool_that_hangs_delays_nothing_and_gets_the_newest_history_and_status(
    tmp_path: Path, monkeypatch: Patch, error: type[BaseException], status: str
) -> None:
    sent, allowed = list[Any](), threading.Semaphore(0)
    monkeypatch.setattr(MLflow, "send", lambda _, *message: sent.extend([message] * allowed.acquire()))
    tracking, about = Tracking([], tmp_path), made.about()
    tracking.tools = {"mlflow": None}
    with pytest.raises(error), tracking:
        for epoch in range(1, 500):
            if epoch in (1, 250):  # the second time, it has returned to its last checkpoint
                about = replace(about, history=list(about.history))
                tracking.begin(SimpleNamespace(about=about), tmp_path / "best")
            about.history.append({"epoch": epoch, "seconds": 2.0})
            tracking.epoch()
        assert len(tracking.started) == 1 and not sent
        allowed.release(500)
        if status == "FINISHED":
            tracking.end()
        raise error
    assert len(sent) <= 3 and sent[-1][1] == status
    _, _, epochs, ended = zip(*sent[-1][0], strict=True)
    assert list(epochs) == list(range(1, 500)) and ended[-1] == pytest.approx(time.time(), abs=made.PATIENCE)
    assert ended[-1] - ended[0] == pytest.approx(2.0 * 498)  # as if there had been no pause


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_package_that_is_not_installed_is_one_sentence(tracked: Train, monkeypatch: Patch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"^--track {name} needs `pip install .*`\.$"):
        tracked("--track", name)


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_of_several_processes_is_tracked(tracked: Train, monkeypatch: Patch, rank: int) -> None:
    monkeypatch.setattr(train, "join", lambda: Ranks(rank, 2))
    monkeypatch.setattr(train, "Tracking", lambda tools, _: sys.exit(str(tools)))
    with pytest.raises(SystemExit) as asked:
        tracked("--track", "mlflow")
    assert asked.value.code == ("[]" if rank else "['mlflow']")


def test_without_the_option_nothing_is_imported(tmp_path: Path, tracked: Train, monkeypatch: Patch) -> None:
    for name in ("mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # makes an import an error
    assert tracked() == []
    assert not [path for path in tmp_path.rglob("*") if "mlflow" in path.name or "tensorboard" in path.name]


def test_no_password_is_printed(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a\nb")
    error = OSError("request to https://user:pass/ word@host/api?key=query failed: 'Bearer a\nb' Response body: 'echo'")
    Tool.warn(SimpleNamespace(name="", warned=False), repr(error))  # type: ignore[arg-type]
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "failed: 'Bearer ***" in printed
    assert not any(secret in printed for secret in ("user", "pass", "word", "query", "a\\nb", "echo"))


# ---- TensorBoard


def reader(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "report" / "tiny" / "tensorboard" / "resnet18"))


def assert_shows_history(folder: Path, events: Any) -> None:
    """TensorBoard shows every column of the history, and no epoch twice."""
    table = history(folder)
    assert set(events.Reload().Tags()["scalars"]) == set(CURVES)
    for curve, column in zip(CURVES, COLUMNS, strict=True):
        points = [(point.step, point.value) for point in events.Scalars(curve)]
        assert points == [(epoch, pytest.approx(value, rel=1e-5)) for epoch, value in table[column].items()], column


@extras
def test_tensorboard_shows_a_resumed_run_and_no_epoch_twice(tmp_path: Path, tracked: Train) -> None:
    """In a new reader and in one that was open all the time. --fresh starts new curves."""
    with made.interrupted(2):
        tracked("--track", "tensorboard")
    open_reader = reader(tmp_path)
    assert [point.step for point in open_reader.Reload().Scalars("loss/valid")] == [1, 2]
    file = next((tmp_path / "report/tiny/tensorboard/resnet18").iterdir())
    file.write_bytes(file.read_bytes()[:-7])  # as after a kill while it was written
    Image.new("RGB", (8, 8)).save(tmp_path / "report" / "tiny" / "preprocessing.png")
    assert tracked("--track", "tensorboard") == []
    assert_shows_history(tmp_path, open_reader)
    assert_shows_history(tmp_path, events := reader(tmp_path))
    texts = [events.Tensors(f"{name}/text_summary")[0] for name in ("settings", "made with", "best checkpoint")]
    text = "".join(text.tensor_proto.string_val[0].decode() for text in texts)
    expected = ("| optimizer | sgd |", "| preprocessing.size | 32 |", "| precision | fp32 |", str(tmp_path / BEST))
    assert all(part in text for part in expected) and events.Tags()["images"] == ["preprocessing"]
    assert events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"
    tracked("--track", "tensorboard", "--fresh", "--epochs", "1")
    assert_shows_history(tmp_path, reader(tmp_path))


@extras
def test_tensorboard_without_room_is_one_sentence(tmp_path: Path, tracked: Train) -> None:
    folder = tmp_path / "report" / "tiny" / "tensorboard"
    folder.parent.mkdir(parents=True)
    folder.touch()
    [sentence] = tracked("--track", "tensorboard")
    assert sentence.startswith("warning: TensorBoard's resnet18 is incomplete") and str(folder) in sentence
    folder.unlink()
    assert tracked("--track", "tensorboard") == []
    assert_shows_history(tmp_path, reader(tmp_path))


# ---- MLflow


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, which takes seconds to create."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


class Store:
    """The MLflow store of a working directory."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.folder, self.client = folder, MlflowClient(f"sqlite:///{folder}/report/mlflow.db")
        self.run_file = folder / BEST.with_name("mlflow_run")

    def run(self) -> Any:
        [run] = self.client.search_runs([one.experiment_id for one in self.client.search_experiments()])
        return run

    def epochs(self, column: str = "size") -> list[int]:
        return sorted(point.step for point in self.client.get_metric_history(self.run().info.run_id, column))

    def assert_whole(self) -> Any:
        """The store has one run with every column of the history, each epoch once. Returns the run."""
        run, table = self.run(), history(self.folder)
        for column in COLUMNS:
            points = [(p.step, p.value) for p in self.client.get_metric_history(run.info.run_id, column)]
            expected = [(epoch, pytest.approx(value, rel=1e-5)) for epoch, value in table[column].items()]
            assert sorted(points) == expected, column
        assert run.info.status == "FINISHED" and run.info.run_id == self.run_file.read_text()
        return run


@pytest.fixture
def store(tmp_path: Path, template: Path, monkeypatch: Patch) -> Store:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "report").mkdir()
    shutil.copy(template, tmp_path / "report")
    return Store(tmp_path)


@extras
def test_mlflow_shows_one_run_that_was_stopped_and_resumed(store: Store, tracked: Train) -> None:
    with made.interrupted(2):
        tracked("--track", "mlflow")
    first = store.run().info
    assert first.status == "KILLED" and store.epochs() == [1, 2]
    Image.new("RGB", (8, 8)).save(store.folder / "report" / "tiny" / "preprocessing.png")
    options = ("--track", "mlflow", "--patience", "9")  # the setting that may change
    assert tracked(*options) == []
    run = store.assert_whole()
    assert run.info.run_id == first.run_id and store.client.get_experiment(first.experiment_id).name == "tiny"
    assert run.data.params.items() >= {"optimizer": "sgd", "lr": "0.1", "preprocessing.size": "32"}.items()
    assert run.data.tags.items() >= {"precision": "fp32", "data": "tiny", "mlflow.source.name": "train.py"}.items()
    assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["git"].split()[0]
    assert run.data.metrics["best_valid_accuracy"] == pytest.approx(history(store.folder)["valid_accuracy"].max())
    assert "best_valid_accuracy_d4" in run.data.metrics
    files = {file.path: file.file_size for file in store.client.list_artifacts(run.info.run_id)}
    assert files.keys() == {"run_resnet18.json", "preprocessing.png", "best.safetensors", "model"}
    assert files["best.safetensors"] == (store.folder / BEST).stat().st_size
    assert (store.folder / "report" / "mlflow").is_dir() and os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert tracked(*options) == [] and store.assert_whole().to_dictionary() == run.to_dictionary()


@extras
@pytest.mark.filterwarnings("ignore")  # of MLflow and of torch's exporter
def test_the_best_network_is_a_registered_version_with_the_same_logits(store: Store, monkeypatch: Patch) -> None:
    """MLflow's server runs in another process. The model is an exported graph. A new run gets a new version."""
    import mlflow.pytorch

    with mlflow_server(store.folder) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        made.make_data(store.folder / "csv" / "tiny")
        options = ["--data", "csv/tiny", "--model", "cnn2", "--size", "32", "--epochs", "1", "--batch-size", "8"]
        monkeypatch.chdir(store.folder)
        for _ in range(2):  # the second time there is nothing to send
            made.command(train, *options, "--device", "cpu", "--precision", "fp32", "--track", "mlflow")
        client = mlflow_client(store.folder / "report")
        [version] = client.search_model_versions("name = 'tiny-cnn2'")
        assert version.tags["classes"] == "normal, leukemia blast" and version.tags["preprocessing.size"] == "32"
        assert client.get_run(version.run_id).info.status == "FINISHED" and int(version.version) == 1
        mlflow.set_tracking_uri(address)
        loaded = mlflow.pytorch.load_model("models:/tiny-cnn2/1")
        network, _ = load_network(Path("weights/tiny/cnn2/best.safetensors"))
        for count in (1, 5):
            images = torch.randn(count, 3, 32, 32)
            with torch.no_grad():
                torch.testing.assert_close(loaded(images), network(images), rtol=0, atol=1e-6)
        monkeypatch.setattr(lab.tracking, "export_apart", lambda _, folder: folder.mkdir())  # once is enough
        made.command(train, *options, "--device", "cpu", "--precision", "fp32", "--track", "mlflow", "--fresh")
        assert sorted(int(one.version) for one in client.search_model_versions("name = 'tiny-cnn2'")) == [1, 2]


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of MLflow's own server, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/report/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            limit = time.monotonic() + made.PATIENCE
            while True:
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                assert time.monotonic() < limit and process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@extras
def test_a_missing_run_is_replaced_in_one_sentence(store: Store, tracked: Train) -> None:
    """Deleted, on another server, or with an invalid id. A training that starts over is a new run."""
    for case in ("", "deleted", "f" * 32, "no '\n id", "--fresh"):
        if case:
            store.client.delete_run(store.run().info.run_id)
        if case not in ("", "deleted", "--fresh"):
            store.run_file.write_text(case)
        [sentence] = tracked("--track", "mlflow", *([case, "--epochs", "1"] if case == "--fresh" else []))
        assert f"new run {store.assert_whole().info.run_id}" in sentence
        assert (" is a new run" in sentence) == (case not in ("", "--fresh"))


@extras
def test_a_deleted_experiment_is_restored_in_one_sentence(store: Store, tracked: Train) -> None:
    """With its run, which the training resumes; a training that starts over gets a new run there."""
    with made.interrupted(2):
        tracked("--track", "mlflow")
    first = store.run().info
    store.client.delete_experiment(first.experiment_id)
    restored = "mlflow: the experiment tiny was deleted; restored, because --track logs there."
    assert tracked("--track", "mlflow") == [restored]
    assert store.assert_whole().info.run_id == first.run_id
    store.client.delete_experiment(first.experiment_id)
    lines = tracked("--track", "mlflow", "--fresh", "--epochs", "1")
    assert lines[0] == restored and "is the new run" in lines[1] and len(lines) == 2


@extras
def test_killed_and_resumed_is_one_run(store: Store, tracked: Train, trainer: made.Trainer, trained: Path) -> None:
    (store.folder / "hold").write_text("4")
    process = trainer.start(store.folder, "--data", str(trained / "csv" / "tiny"), *made.FAST, "--track", "mlflow")
    limit = time.monotonic() + made.PATIENCE
    while not store.run_file.exists() or store.epochs() != [1]:
        assert time.monotonic() < limit, (store.folder / "stderr").read_text()
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    assert trainer.status() == -signal.SIGKILL and store.run().info.status == "RUNNING"
    assert not re.search("mlflow|alembic", (store.folder / "stderr").read_text())
    (store.folder / "hold").unlink()
    assert tracked("--track", "mlflow") == []
    store.assert_whole()


@contextmanager
def failing_server(status: int) -> Iterator[int]:
    """The port of a server that answers with an error ``status``, or if that is 0 not before the block ends."""
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if not status:
            ended.wait(made.PATIENCE)
        handler.send_error(status or 500, handler.headers["Authorization"])

    methods = {"do_GET": answer, "do_POST": answer, "log_message": lambda *_: None}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (BaseHTTPRequestHandler,), methods)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        ended.set()
        server.shutdown()


@extras
@pytest.mark.parametrize("status, why", [(-1, "refused"), (0, "timed out"), (0, "in time"), (401, "401"), (500, "500")])
def test_a_server_that_fails_is_one_sentence(store: Store, tracked: Train, status: int, why: str) -> None:
    with failing_server(status) as port, Patch.context() as patch:
        patch.setattr(lab.tracking, "WAIT", 0.1 if why == "in time" else made.PATIENCE)
        patch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:geheim@127.0.0.1:{1 if status < 0 else port}")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(made.PATIENCE) if why == "in time" else "1")
        [sentence] = tracked("--track", "mlflow")
    for thread in threading.enumerate():
        thread.join() if isinstance(thread, Tool) else None
    assert sentence.startswith("warning: MLflow's resnet18 is incomplete") and why in sentence
    assert "geheim" not in sentence and "somebody" not in sentence
    tracked("--track", "mlflow")
    store.assert_whole()


@extras
def test_a_server_that_dies_gets_no_epoch_twice_once_it_is_back(
    store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """It stores one request, of 1,000 numbers at most, without an answer. Later it does not even return the run."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    rows = [{"epoch": float(epoch), "train_accuracy": 0.5, "size": 32.0, "seconds": 1.0} for epoch in range(1, 401)]
    run = SimpleNamespace(about=made.about(data="tiny", history=rows))
    log_batch, calls = SqlAlchemyStore.log_batch, count()

    def warnings_of_a_training() -> int:
        with (tracking := Tracking(["mlflow"], store.folder / "report")):
            tracking.begin(run, store.folder / BEST)
            tracking.end("FAILED")
        return capfd.readouterr().err.count("MLflow's resnet18 is incomplete (ConnectionResetError")

    def fail(*args: Any, **options: Any) -> None:
        if (call := next(calls)) < 2:  # the tags, then the first numbers
            log_batch(*args, **options)
        if call:
            raise ConnectionResetError

    with Patch.context() as patch:
        patch.setattr(SqlAlchemyStore, "log_batch", fail)
        assert warnings_of_a_training() == 1 and store.epochs() == list(range(1, 334))
        patch.setattr(SqlAlchemyStore, "get_run", fail)
        assert warnings_of_a_training() == 1
    assert warnings_of_a_training() == 0 and store.run().info.status == "FAILED"
    assert store.epochs() == store.epochs("train_accuracy") == list(range(1, 401))
