"""Following a training from elsewhere, by TensorBoard and MLflow, where ``train.py --track`` asks for them.

Neither may stop, slow or change a training: what fails is said in a sentence and left out. Both are shown the training's own
history, which holds all its epochs, so that a run that goes on leaves no gap and shows no epoch twice.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from lab.checkpoints.checkpoint import About
from lab.errors import UserError
from lab.files import write_whole
from lab.terminal import warn

PROJECT = Path(__file__).resolve().parent.parent
WAIT = 60.0  # seconds that a command waits for MLflow at its end, and one more for each megabyte of a checkpoint
WAIT_STOPPED = 5.0  # where it was stopped
IDENTITY = "mlflow_id"  # file beside the checkpoints


class Tracking:
    """What follows the trainings of one command, one after the other; nothing where ``tools`` names none.

    As a context it ends what is followed when the command ends, with the status that MLflow knows: KILLED where a signal
    stopped it, FAILED by anything else. Raises :class:`UserError` where a tool is not installed.
    """

    def __init__(self, tools: Sequence[str], report: Path) -> None:
        for name in tools:
            if importlib.util.find_spec(name) is None:
                raise UserError(
                    f"--track {name}: {name} is not installed; `pip install -r requirements-extras.txt -c constraints.txt` "
                    f"installs it."
                )
        self.tools, self.report = list(dict.fromkeys(tools)), report
        self.following: dict[str, TensorBoard | MLflow] = {}
        self.about: About | None = None
        self.sending: list[MLflow] = []  # of trainings that have ended

    def begin(self, about: About, best: Path) -> None:
        """Follow a training, from the epochs on that it has. One that went back to its last checkpoint begins again, and is
        followed on."""
        if self.about is None:
            for name in self.tools:
                with self.harmless(name):
                    tool = TensorBoard if name == "tensorboard" else MLflow
                    self.following[name] = tool(self.report / about.data, about, best)
        self.about = about
        self.epoch()

    def epoch(self, about: About | None = None) -> None:
        """Show the epochs that have come since; to be called once they are in the history."""
        self.about = about or self.about
        for name, tool in list(self.following.items()):
            with self.harmless(name):
                assert self.about is not None
                tool.show(self.about)

    def end(self, status: str = "FINISHED") -> None:
        """Show how the training ended."""
        for name, tool in list(self.following.items()):
            with self.harmless(name):
                assert self.about is not None
                tool.end(self.about, status)
                if isinstance(tool, MLflow):
                    self.sending.append(tool)
        self.following, self.about = {}, None

    @contextmanager
    def harmless(self, name: str) -> Iterator[None]:
        """Whatever goes wrong with a tool, the training goes on without it."""
        try:
            yield
        except Exception as error:
            self.following.pop(name, None)
            warn(f"{name} cannot follow the training any longer ({error}); it goes on without.")

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.end("KILLED" if stopped else "FAILED" if kind else "FINISHED")
        limit = time.monotonic() + (WAIT_STOPPED if kind else WAIT + sum(tool.megabytes for tool in self.sending))
        for tool in self.sending:
            tool.wait(limit, leave=bool(kind))

    @staticmethod
    def forget(best: Path) -> None:
        """A training that begins anew is another than the one whose checkpoints it replaces; followed or not."""
        best.with_name(IDENTITY).unlink(missing_ok=True)


class TensorBoard:
    """Event files in ``report/<data>/tensorboard/<model>``, written anew from the history by each start."""

    def __init__(self, report: Path, about: About, best: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = report / "tensorboard" / about.model
        for file in folder.glob("events.out.tfevents.*"):
            os.truncate(file, 0)  # not removed: a TensorBoard that is reading it would look for no other file any more
        self.report, self.best, self.shown = report, best, 0
        self.writer = SummaryWriter(folder, purge_step=0)  # and who has read them forgets them
        print(f"tensorboard: {about.model} is shown by `tensorboard --logdir {folder.parent}`")
        settings = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in about.settings.items()
        }
        for summary in hparams(settings, {scalar_name("valid_accuracy"): 0.0}):
            self.writer._get_file_writer().add_summary(summary)
        self.writer.add_text("settings", table(about.settings))
        self.writer.add_text("preprocessing", table(asdict(about.preprocessing)))
        self.writer.add_text("made with", "\n\n".join(map(table, about.records)))
        for name in ("preprocessing", "augmentation"):
            self.picture(name, 0)

    def show(self, about: About) -> None:
        """Write the epochs that are new."""
        end = time.time()
        for row, ended in zip(about.history, times(about.history, end), strict=True):
            if row["epoch"] > self.shown:
                for name, value in row.items():
                    if name != "epoch":
                        self.writer.add_scalar(scalar_name(name), value, int(row["epoch"]), ended)
        self.shown = len(about.history)
        self.writer.flush()

    def end(self, about: About, status: str) -> None:
        """Close the files."""
        self.picture("accuracy_comparison", self.shown)
        if status == "FINISHED":
            self.writer.add_text("best checkpoint", f"{self.best}\n\n{table(about.metrics)}", self.shown)
        self.writer.close()

    def picture(self, name: str, step: int) -> None:
        """Show a figure of the report, where there is one."""
        path = self.report / f"{name}.png"
        if path.is_file():
            self.writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")


class MLflow:
    """A run of MLflow, sent by a process of its own (lab/mlflow_process.py): to the server that MLFLOW_TRACKING_URI names,
    else into ``report/mlflow.db``.

    The file ``mlflow_id`` beside the checkpoints tells the training from all others, so that it stays one run however often it
    goes on. What the process has to know it reads from the files of the training, and from here only how far that is.
    """

    def __init__(self, report: Path, about: About, best: Path) -> None:
        kept = best.with_name(IDENTITY)
        known = kept.read_text(encoding="utf-8", errors="replace") if kept.is_file() else ""
        if not re.fullmatch(r"[0-9a-f]{32}", known):
            known = uuid.uuid4().hex
            write_whole(kept, known)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        }
        store = ""
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            store = str(report.parent.resolve())
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}/mlflow.db"
            print(
                f"mlflow: {about.model} is shown by `mlflow ui --backend-store-uri sqlite:///{report.parent / 'mlflow.db'}`"
            )
        else:
            print(f"mlflow: {about.model} is sent to {without_secrets(os.environ['MLFLOW_TRACKING_URI'])}")
        words = [about.model, str(report.resolve()), str(best.resolve()), known, store]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.mlflow_process", *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for the training, which tells how it ended
        )
        assert self.process.stdin is not None
        self.told = self.process.stdin
        os.set_blocking(self.told.fileno(), False)
        self.best, self.megabytes = best, 0.0

    def show(self, about: About, status: str = "RUNNING") -> None:
        """Say how far the training is. Where the process has not read what it was told before, it will find all in the files."""
        with suppress(BlockingIOError):
            os.write(self.told.fileno(), f"{status} {len(about.history)}\n".encode())

    def end(self, about: About, status: str) -> None:
        """Say how the training ended; the rest is sent while the next one goes on."""
        self.show(about, status)
        self.told.close()
        self.megabytes = self.best.stat().st_size / 1e6 if self.best.is_file() else 0.0

    def wait(self, limit: float, leave: bool) -> None:
        """Wait until all is sent or given up, but not beyond ``limit`` of the monotonic clock; then ``leave`` the process
        alone, which soon ends by itself, or end it."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(min(2.0, max(0.0, limit - time.monotonic())))
            return
        left = max(0.0, limit - time.monotonic())
        if leave:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(left)
            return
        print(f"mlflow: waiting for the last to be sent, {left:.0f} s at most", flush=True)
        try:
            self.process.wait(left)
        except subprocess.TimeoutExpired:
            print("mlflow: not all was sent in time; start the same command again to send the rest.", flush=True)
        finally:
            self.process.kill()


def times(history: list[dict[str, float]], end: float) -> list[float]:
    """When each epoch ended, were all trained without a pause up to ``end``."""
    left = np.cumsum([row["seconds"] for row in history][::-1])[::-1]
    return [end - float(after) for after in np.append(left[1:], 0.0)] if history else []


def scalar_name(column: str) -> str:
    """A column of the history as TensorBoard groups it: ``train_accuracy`` → ``accuracy/train``."""
    part, _, what = column.partition("_")
    return f"{what}/{part}" if part in ("train", "valid") else column


def table(values: Mapping[str, object]) -> str:
    """Names and values as a table of Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])


def without_secrets(address: str) -> str:
    """An address without the user, password and query that it may hold."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
