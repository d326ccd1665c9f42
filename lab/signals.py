"""Stops a run cleanly: Ctrl-C and SIGTERM take effect after the current step."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 0.5  # seconds within which a second signal is the same Ctrl-C, sent by the terminal and by torchrun


class Stopped(KeyboardInterrupt):
    """The run was asked to stop by the signal ``number``. The process exits with 128 + ``number``, as the shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Stop:
    """While ``patient``, the first SIGINT or SIGTERM only sets ``asked``, which the loop checks after each step. A second signal
    raises :class:`Stopped` at once, and so does the first one while not ``patient``."""

    def __init__(self) -> None:
        self.asked = 0
        self.patient = False
        self.when = 0.0

    def note(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self.asked and now - self.when < AGAIN:
            return
        again, self.asked, self.when = bool(self.asked), number, now
        if again or not self.patient:
            raise Stopped(number)
        print("\nfinishing the step, then stopping; once more to stop at once", file=sys.stderr, flush=True)

    @contextmanager
    def patiently(self, patient: bool = True) -> Iterator[None]:
        """Set ``patient`` within the block."""
        before, self.patient = self.patient, patient
        try:
            yield
        finally:
            self.patient = before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals within the block. Does nothing outside the main thread, where Python allows no handlers."""
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {number: signal.signal(number, self.note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
