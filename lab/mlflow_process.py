"""The process that sends a training to MLflow, started by lab/tracking.py: ``python -m lab.mlflow_process``.

Its arguments say where the training's files are. Each line of its standard input says how things stand, such as ``RUNNING 3``
after the third epoch, ``FINISHED 8`` at the end; what there is to send it reads from the training's own files. It asks the
server what is there already and sends what is missing, so that nothing is sent twice and all that a server missed is sent
once it answers. Input that ends without an end is that of a training that was killed.

It is a process of its own, so that whatever happens here (a client that waits for minutes, a database that is set up) neither
stops nor slows a training, and so that MLflow learns of a training that was killed.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import safe_open

from lab.files import replacing
from lab.text import counted

NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
# MLflow's client would wait two minutes for an answer and ask eight times; here the next epoch asks again.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
ALONE = 30  # seconds that it may outlive a training that was stopped
AT_ONCE = 100  # epochs in one request; the server takes 1,000 numbers


@dataclass
class Training:
    """Where a training's files are, and what MLflow has of it."""

    model: str
    report: Path  # report/<data>
    best: Path  # its best checkpoint
    training: str  # what tells it from every other training, in hexadecimal
    store: Path | None  # folder of a local database that nobody chose by MLFLOW_TRACKING_URI
    run: str = ""
    sent: set[int] = field(default_factory=set)  # epochs
    times: dict[int, int] = field(default_factory=dict)  # the end of an epoch, ms; the same when it is sent again
    figures: bool = False

    def send(self, status: str, epochs: int) -> None:
        """Send what MLflow has not. Raises whatever its client does."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient()
        rows = self.history(epochs)
        if not self.run:
            self.open(client)
        missing = [row for row in rows if int(row["epoch"]) not in self.sent]
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            metrics = [
                Metric(name, value, self.times[int(row["epoch"])], int(row["epoch"]))
                for row in part
                for name, value in row.items()
                if name != "epoch"
            ]
            client.log_batch(self.run, metrics)
            self.sent |= {int(row["epoch"]) for row in part}
        if status != "RUNNING":
            self.close(client, status)
        elif not self.figures:
            for name in (f"run_{self.model}.json", "preprocessing.png", "augmentation.png"):
                self.upload(client, self.report / name)
            self.figures = True

    def history(self, epochs: int) -> list[dict[str, float]]:
        """The first rows of the history; notes when each epoch ended, counted back from now for those of earlier starts."""
        path = self.report / f"history_{self.model}.csv"
        if not epochs:
            return []  # what lies there is of an earlier training
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        rows = rows[:epochs]
        end = time.time()
        for row in reversed(rows):
            self.times.setdefault(int(row["epoch"]), int(1000 * end))
            end -= row.get("seconds", 0.0)
        return rows

    def open(self, client: Any) -> None:
        """Find the run of this training, or make it; its settings as parameters, its last record as tags."""
        from mlflow.entities import Param, RunTag

        said = json.loads((self.report / f"run_{self.model}.json").read_text(encoding="utf-8"))
        if self.store is not None:
            set_up(self.store)
        experiment = self.experiment(client, said["data"])
        found = client.search_runs([experiment], f"tags.training = '{self.training}'", max_results=1)
        run = (
            found[0] if found else client.create_run(experiment, tags={"training": self.training}, run_name=self.model)
        )
        identity = run.info.run_id
        wanted = {name: str(value) for name, value in said["settings"].items()}
        wanted |= {f"preprocessing.{name}": str(value) for name, value in said["preprocessing"].items()}
        known = run.data.params
        record = said["records"][-1] if said["records"] else {}
        tags = {**record, "data": said["data"], "lists": said["lists"], "classes": ", ".join(said["classes"])[:5000]}
        # A parameter keeps its first value; of the settings --patience may change.
        tags |= {f"{name} changed to": wanted[name] for name in known if known[name] != wanted.get(name, known[name])}
        tags |= {"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL"}
        if (git := record.get("git", "none")) != "none":
            tags["mlflow.source.git.commit"] = git.split()[0]
        client.log_batch(
            identity,
            params=[Param(name, value) for name, value in wanted.items() if name not in known],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        if found:
            self.sent = {point.step for point in client.get_metric_history(identity, "valid_accuracy")}
            if run.info.status != "FINISHED":
                client.update_run(identity, status="RUNNING")
        self.run = identity

    def experiment(self, client: Any, data: str) -> str:
        """The number of the experiment, made where there is none: the data set's, or the one of MLFLOW_EXPERIMENT_NAME."""
        from mlflow.exceptions import MlflowException

        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or data
        place = (self.store / "mlflow").as_uri() if self.store is not None else None
        if known := client.get_experiment_by_name(name):
            return str(known.experiment_id)
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:  # another training was faster
            if known := client.get_experiment_by_name(name):
                return str(known.experiment_id)
            raise

    def close(self, client: Any, status: str) -> None:
        """The end: what the best checkpoint was saved for, how the training ended, figures, and the best checkpoint."""
        run = client.get_run(self.run)
        if status == "FINISHED" and "best_valid_accuracy" not in run.data.metrics:
            with safe_open(self.best, "numpy") as file:
                metrics = json.loads(file.metadata()["about"])["metrics"]
            for name, value in metrics.items():
                client.log_metric(self.run, f"best_{name}", value, step=int(metrics["epoch"]))
        if run.info.status != status:
            client.set_terminated(self.run, status)
        for name in (f"run_{self.model}.json", "preprocessing.png", "augmentation.png", "accuracy_comparison.png"):
            self.upload(client, self.report / name)
        if status == "FINISHED":
            self.upload(client, self.best)

    def upload(self, client: Any, path: Path) -> None:
        """Send a file, unless one of its name and size is there, or it is not here."""
        there = {file.path: file.file_size for file in client.list_artifacts(self.run)}
        if path.is_file() and there.get(path.name) != path.stat().st_size:
            client.log_artifact(self.run, str(path))


def set_up(folder: Path) -> None:
    """Make the local database, whole or not at all; of two trainings that begin at once, one."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database = folder / "mlflow.db"
    with FileLock(folder / ".mlflow.lock"):
        if not database.is_file():
            with replacing(database) as temporary:
                SqlAlchemyStore(f"sqlite:///{temporary}", (folder / "mlflow").as_uri()).engine.dispose()


def reason(error: BaseException) -> str:
    """Why something was not sent, in a few words without an address or a password."""
    import requests

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    code = re.search(r"error code (\d{3})|too many (\d{3}) error|\b([45]\d{2}) (?:Client|Server) Error", text)
    if code:
        number = next(group for group in code.groups() if group)
        hint = ", see MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if number in ("401", "403") else ""
        return f"it refuses with status {number}{hint}"
    if any(isinstance(one, requests.exceptions.Timeout) for one in chain) or "timed out" in text:
        return f"no answer within {os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT']} s"
    if any(isinstance(one, requests.exceptions.ConnectionError) for one in chain):
        return "no connection"
    return f"{type(error).__name__}: {masked(text)[:200]}"


def masked(text: str) -> str:
    """Text without the passwords that it may hold: those of addresses, and those of MLflow's variables."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return re.sub(r"//[^/\s]*@", "//***@", text)


def follow(training: Training, chunks: Iterable[bytes], say: Callable[[str], None]) -> None:
    """Send after each line of ``chunks``, of which an empty one is their end, until the training has ended. What goes wrong is
    said once, and at the end."""
    status, epochs, rest, failed = "RUNNING", 0, b"", False
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:  # while an answer was waited for there may have come several; the last says all
            status, number = lines[-1].decode().split()
            epochs = int(number)
        elif not chunk:
            status = "KILLED"
        if status in ("KILLED", "FAILED") and hasattr(signal, "alarm"):
            signal.alarm(ALONE)
        try:
            training.send(status, epochs)
        except Exception as error:  # whatever it is, the training goes on
            why = reason(error)
            if status != "RUNNING":
                count = f"{len(training.sent)} of {counted(epochs, 'epoch')} there"
                say(
                    f"{training.model} was not sent whole, {count} ({why}); start the same command again to send the rest."
                )
            elif not failed:
                say(f"{training.model} cannot be sent now ({why}); the training goes on, and each epoch tries again.")
            failed = True
        else:
            if failed and status != "RUNNING":
                say(f"{training.model} was sent whole in the end.")
        if status != "RUNNING":
            return


def main() -> None:
    """Take the words of lab/tracking.py."""
    model, report, best, training, store = sys.argv[1:]
    os.environ |= NO_TELEMETRY | {name: os.environ.get(name) or value for name, value in PATIENCE.items()}
    if hasattr(os, "nice"):
        os.nice(5)  # the training goes first
    terminal = os.fdopen(os.dup(2), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # MLflow's own messages
    os.dup2(nothing, 2)

    def say(text: str) -> None:
        print(f"\nmlflow: {text}", file=terminal, flush=True)

    chunks = iter(lambda: os.read(sys.stdin.fileno(), 65536), None)
    follow(Training(model, Path(report), Path(best), training, Path(store) if store else None), chunks, say)


if __name__ == "__main__":
    main()
