"""Stopping a run cleanly: Ctrl-C and SIGTERM take effect after the step under way."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 0.5  # seconds: torchrun passes on a Ctrl-C that the terminal has sent already


class Stopped(KeyboardInterrupt):
    """The run was asked to stop by the signal ``number``; the process exits with 128 and that, as the shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Stop:
    """While ``patient``, the first SIGINT or SIGTERM is only noted in ``asked``, for the loop to look at after its step. A second
    one raises :class:`Stopped` at once, and so does the first while not patient."""

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
        """Within the block the first signal is only noted, or not, where ``patient`` is False."""
        before, self.patient = self.patient, patient
        try:
            yield
        finally:
            self.patient = before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals. Elsewhere than in the main thread Python allows no handlers, and nothing changes."""
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {number: signal.signal(number, self.note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
