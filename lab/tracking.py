"""Logs a training to TensorBoard and MLflow (``train.py --track``). Threads send the data and never stop, delay or change it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from lab.checkpoints.checkpoint import About, read_about
from lab.errors import UserError
from lab.files import PROJECT, write_whole
from lab.terminal import warn

WAIT, WAIT_STOPPED = 60.0, 5.0  # seconds that a command waits for the threads at its end; after a stop or an error
DEFAULTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # MLflow's defaults: 120 s, 7
DEFAULTS |= {"MLFLOW_LOGGING_LEVEL": "CRITICAL", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
Point = tuple[str, float, int, float]  # column of the history, value, epoch, time at which the epoch ended


class Tracking(AbstractContextManager[object]):
    """Logs the trainings of one command, one after the other. Raises :class:`UserError` if a package is not installed."""

    def __init__(self, tools: Sequence[str], report: Path) -> None:
        for name in tools:
            if importlib.util.find_spec(name) is None:
                raise UserError(f"--track {name} needs `pip install -r requirements-extras.txt -c constraints.txt`.")
        os.environ.update(DEFAULTS | os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} if tools else {})
        self.tools, self.report, self.started, self.active = dict.fromkeys(tools), report, list[Tool](), list[Tool]()

    def begin(self, run: Any, best: Path) -> None:
        """Log a training by its ``run.about``. Called again if the training returned to its last checkpoint."""
        if not self.active:
            kinds = [TensorBoard if name == "tensorboard" else MLflow for name in self.tools]
            self.active = [kind(self.report, run.about, best) for kind in kinds]
            self.started += self.active
        self.training = run
        self.epoch()

    def epoch(self, status: str = "RUNNING") -> None:
        """Pass the history to each tool without waiting. Called after each epoch."""
        for tool in self.active:  # the times of epochs of earlier starts are computed as if there had been no pause
            history = self.training.about.history
            times = time.time() - np.cumsum([0.0, *(row["seconds"] for row in history[:0:-1])])[::-1]
            rows = list(zip(history, times.tolist(), strict=False))
            points = [(k, v, int(row["epoch"]), ended) for row, ended in rows for k, v in row.items() if k != "epoch"]
            tool.message = points, status  # replaces an unread message, which is part of this one
            tool.event.set()

    def end(self, status: str = "FINISHED") -> None:
        """Pass on the final status of the training. Unsent data is sent while the next training runs."""
        self.epoch(status)
        self.active = []

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """End a training that an error has stopped, and wait until all data is sent."""
        self.end("KILLED" if kind and issubclass(kind, KeyboardInterrupt) else "FAILED")
        size = sum(tool.best.stat().st_size for tool in self.started if tool.best.is_file())
        limit = time.monotonic() + (WAIT_STOPPED if kind else WAIT + size / 1e6)
        for tool in self.started:
            tool.join(max(0.0, limit - time.monotonic()))
            if tool.is_alive():
                tool.warn("not done in time")

    @staticmethod
    def forget(best: Path) -> None:
        """Remove MLflow's run id beside the checkpoints, because a training that starts over is a new run."""
        best.with_name("mlflow_run").unlink(missing_ok=True)


class Tool(threading.Thread):
    """A daemon thread that sends one training to one tool. ``send`` of a subclass may raise any error."""

    send: Callable[[list[Point], str], None]
    message: tuple[list[Point], str]
    lock, warned = threading.Lock(), False
    writer: Any = None

    def __init__(self, report: Path, about: About, best: Path) -> None:
        super().__init__(name=f"{type(self).__name__}'s {about.model}", daemon=True)
        self.report, self.about, self.best, self.event = report.resolve(), about, best.resolve(), threading.Event()
        self.params = about.settings | {f"preprocessing.{k}": str(v) for k, v in asdict(about.preprocessing).items()}
        self.tags = {name: value for record in about.records for name, value in record.items()}
        self.tags |= {"data": about.data, "lists": about.lists, "classes": ", ".join(about.classes)[:5000]}
        self.start()

    def run(self) -> None:
        """Send each new message, until one with the final status of the training."""
        status = "RUNNING"
        while status == "RUNNING":
            self.event.wait()
            self.event.clear()
            points, status = self.message
            try:
                self.send(points, status)
            except BaseException as error:
                while error.__context__:
                    error = error.__context__
                self.warn(f"{type(error).__name__}: {str(error)!r}")

    def warn(self, why: str) -> None:
        """Warn, once per training, why data was not sent; addresses and secrets of the environment are masked."""
        secrets = [repr(v)[1:-1] for k, v in os.environ.items() if v and re.search("PASSWORD|TOKEN|SECRET|_KEY", k)]
        why = re.sub("|".join([*map(re.escape, secrets), "//.*@", r"\?\S*", " Response body.*"]), "***", why)
        if not self.warned:
            warn(f"{self.name} is incomplete ({why:.300}); the same command later sends the rest.")
        self.warned = True


class TensorBoard(Tool):
    """Event files in ``<report>/<data>/tensorboard/<model>``, written anew from the history at each start."""

    def send(self, points: list[Point], status: str) -> None:
        """Write the new epochs. After an error all are written anew."""
        from torch.utils.tensorboard import SummaryWriter, summary

        folder, writer, self.writer = self.report / self.about.data, self.writer, None
        if fresh := writer is None:
            for file in (target := folder / "tensorboard" / self.about.model).glob("events.out.tfevents.*"):
                os.truncate(file, 0)  # not removed, because a TensorBoard that has it open would not open another file
            writer, self.last = SummaryWriter(target, purge_step=0), 0
            for part in summary.hparams(self.params, {"accuracy/valid": 0.0}):
                writer._get_file_writer().add_summary(part)
        for name, value, epoch, ended in points:
            if epoch > self.last:
                writer.add_scalar(re.sub(r"(train|valid)_(\w+)", r"\2/\1", name), value, epoch, ended)
        self.last = points[-1][2] if points else 0
        texts = {"settings": self.params, "made with": self.tags} if fresh else {}
        if status == "FINISHED":
            texts["best checkpoint"] = {"file": self.best, **read_about(self.best).metrics}
        for name, rows in texts.items():
            writer.add_text(name, "| | |\n|-|-|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items()), self.last)
        for name in ["preprocessing", "augmentation"] * fresh + ["accuracy_comparison"] * (status != "RUNNING"):
            if (path := folder / f"{name}.png").is_file():
                writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), self.last, dataformats="HWC")
        writer.flush()
        self.writer = writer


def mlflow_client(report: Path) -> Any:
    """A client of the server of MLFLOW_TRACKING_URI, by default of ``<report>/mlflow.db``."""
    from mlflow import MlflowClient

    return MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{report}/mlflow.db")


def mlflow_experiment(client: Any, report: Path, data: str) -> str:
    """The id of the experiment that the environment names, by default that of the data set, which is created or restored."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or data
    folder = None if os.environ.get("MLFLOW_TRACKING_URI") else (report / "mlflow").as_uri()
    number = os.environ.get("MLFLOW_EXPERIMENT_ID")
    existing = client.get_experiment(number) if number else client.get_experiment_by_name(name)
    if existing is None:
        return str(client.create_experiment(name, folder))
    if existing.lifecycle_stage == "deleted":  # the name is taken, and a deleted experiment gets no runs
        client.restore_experiment(existing.experiment_id)
        tqdm.write(f"mlflow: the experiment {existing.name} was deleted; restored, because --track logs there.")
    return str(existing.experiment_id)


def export(best: Path, folder: Path) -> None:
    """Write the network of a checkpoint as a model of MLflow that needs none of this code: an exported graph of normalised images
    float32 [N, 3, S, S] → logits [N, K]."""
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from lab.checkpoints.checkpoint import load_network

    network, about = load_network(best)
    size, number = about.preprocessing.size, np.dtype(np.float32)
    images, logits = TensorSpec(number, (-1, 3, size, size)), TensorSpec(number, (-1, len(about.classes)))
    mlflow.pytorch.save_model(
        network.eval(),
        str(folder),
        signature=ModelSignature(Schema([images]), Schema([logits])),
        input_example=np.zeros((2, 3, size, size), np.float32),
        serialization_format="pt2",
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
    )


def export_apart(best: Path, folder: Path) -> None:
    """Run :func:`export` in a new process, because torch's exporter is not safe in threads. Raises ``OSError``."""
    code = "import sys; from pathlib import Path; from lab.tracking import export; export(*map(Path, sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(best), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if found.returncode:
        raise OSError(f"{best.name} cannot be exported: {found.stderr.strip().splitlines()[-1:]}")


class MLflow(Tool):
    """A run on the server of MLFLOW_TRACKING_URI, by default in ``<report>/mlflow.db``. The best network becomes a version of the
    registered model ``<data>-<model>``. The run of a trial is nested in that of the search (RESNET_PARENT_RUN), and registers
    nothing."""

    def send(self, points: list[Point], status: str) -> None:
        """Send the epochs that the server does not have, and the files unless ``status`` is RUNNING."""
        from mlflow import entities

        with self.lock:  # threads of one command must not create the database and the experiment at the same time
            client = mlflow_client(self.report)
            run = self.find_run(client)
        key, commit = run.info.run_id, self.tags.get("git", "none").split()[0]
        tags = self.tags | {"mlflow.source.name": "train.py", "mlflow.source.git.commit": commit}
        params = [entities.Param(k, str(v)) for k, v in self.params.items() if k not in run.data.params]
        client.log_batch(key, params=params, tags=[entities.RunTag(name, value) for name, value in tags.items()])
        known = {metric.step for metric in client.get_metric_history(key, "train_accuracy")}
        metrics = [entities.Metric(k, v, int(1e3 * ended), n) for k, v, n, ended in points if n not in known]
        if status == "FINISHED" and "best_epoch" not in run.data.metrics:
            best, now = read_about(self.best).metrics, int(1e3 * time.time())
            metrics += [entities.Metric(f"best_{k}", v, now, int(best["epoch"])) for k, v in best.items()]
        size = 1000 - 1000 % max(1, len({point[0] for point in points}))  # at most 1,000 values, in whole epochs
        for start in range(0, len(metrics), size):
            client.log_batch(key, metrics[start : start + size])
        if run.info.status not in ("FINISHED", status):
            (client.update_run if status == "RUNNING" else client.set_terminated)(key, status)
        names = [f"run_{self.about.model}.json", "preprocessing.png", "augmentation.png", "accuracy_comparison.png"]
        files = [self.report / self.about.data / name for name in names] + [self.best] * (status == "FINISHED")
        for file in files if status != "RUNNING" else ():
            sizes = {stored.path: stored.file_size for stored in client.list_artifacts(key)}
            if file.is_file() and sizes.get(file.name) != file.stat().st_size:
                client.log_artifact(key, str(file))
        if status == "FINISHED" and "RESNET_PARENT_RUN" not in os.environ:
            self.register(client, key)

    def register(self, client: Any, key: str) -> None:
        """Make the best network of run ``key`` a version of the registered model, once."""
        if client.search_model_versions(f"run_id = '{key}'"):
            return
        name = f"{self.about.data}-{self.about.model}"
        with tempfile.TemporaryDirectory() as folder:
            export_apart(self.best, Path(folder) / "model")
            client.log_artifacts(key, folder)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        kept = ("data", "lists", "classes")
        tags = {name: self.tags[name] for name in kept} | {"input": "normalised images [N, 3, S, S]"}
        tags |= {name: value for name, value in self.params.items() if name.startswith("preprocessing.")}
        client.create_model_version(name, f"runs:/{key}/model", key, tags=tags)

    def find_run(self, client: Any) -> Any:
        """Return the run of this training; it is created if the server does not have it."""
        file = self.best.with_name("mlflow_run")
        known = file.read_text(errors="replace") if file.is_file() else ""
        if run := self.active_run(client, known):
            return run
        experiment = mlflow_experiment(client, self.report, self.about.data)
        if run := self.active_run(client, known):  # restored with its experiment
            return run
        parent = os.environ.get("RESNET_PARENT_RUN")
        tags = {"mlflow.parentRunId": parent} if parent else None
        run = client.create_run(experiment, run_name=self.about.model, tags=tags)
        write_whole(file, run.info.run_id)
        tqdm.write(f"mlflow: {self.about.model} is {'a' if known else 'the'} new run {run.info.run_id}.")
        return run

    def active_run(self, client: Any, key: str) -> Any:
        """Return the run of this id; None if the server does not have it, or has deleted it."""
        try:
            run = client.get_run(key)
        except Exception as error:
            if getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None
