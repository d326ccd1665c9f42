"""Writes the last checkpoint of a run: after every epoch, every ten minutes within an epoch, and when the run has to stop."""

from __future__ import annotations

import signal
import time

from lab.checkpoints.checkpoint import save_checkpoint
from lab.signals import Stop, Stopped
from lab.training.run import Run

INTERVAL = 600.0  # seconds between two last checkpoints within an epoch


class Snapshots:
    """Writes last checkpoints, so that an interrupted run loses at most :data:`INTERVAL` of training."""

    def __init__(self, run: Run, stop: Stop) -> None:
        self.run, self.stop = run, stop
        self.due = time.monotonic() + INTERVAL

    def write(self) -> None:
        """Write the last checkpoint of the current state."""
        run = self.run
        run.state.scaler = run.scaler.state_dict()
        with run.ranks.first_before_others():
            if run.ranks.first:
                save_checkpoint(run.files.last, run.about, run.training_tensors(), run.state)
        self.due = time.monotonic() + INTERVAL

    def within_epoch(self, done: int, seconds: float) -> None:
        """Write the state after ``done`` steps of the current epoch, which took ``seconds``."""
        run = self.run
        run.state.loss_sum, run.state.correct = run.sums()
        run.check_finite()
        run.state.step, run.state.seconds = done, seconds
        self.write()

    def after_step(self, done: int) -> None:
        """Write a snapshot if it is due or the run has to stop, and then stop, on all ranks together."""
        if self.run.ranks.any(bool(self.stop.asked) or time.monotonic() > self.due):
            self.within_epoch(done, time.perf_counter() - self.run.began)
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Raise :class:`Stopped` on all ranks if one of them was asked to stop."""
        if self.run.ranks.any(bool(self.stop.asked)):
            raise Stopped(self.stop.asked or signal.SIGTERM)
