"""Keeps what a training prints on the terminal, in ``report/<data>/log_<model>.txt``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from lab.files import write_whole


class Log:
    """A copy of this process's output, without progress bars, which is written whole after each epoch.

    Within ``with log:`` the output is copied. The first lines of each run's log are the command and what was printed before the
    first run. Nothing is written before :meth:`keep`.
    """

    def __init__(self) -> None:
        self.head = self.text = f"$ python {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}\n"
        self.path: Path | None = None
        self.earlier, self.written, self.begun = "", "", False

    def __enter__(self) -> Log:
        self.stack = ExitStack()
        self.stack.enter_context(redirect_stdout(Copy(sys.stdout, self)))
        self.stack.enter_context(redirect_stderr(Copy(sys.stderr, self)))
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def add(self, text: str) -> None:
        """Note printed text, except for progress bars, which move the cursor, and empty lines."""
        if "\r" not in text and "\x1b" not in text and (text.strip("\n") or not self.text.endswith("\n")):
            self.text += text

    @contextmanager
    def of_run(self) -> Iterator[None]:
        """The block is one run, whose log is written once more at the end."""
        if not self.begun:
            self.head, self.begun = self.text, True
        self.text, self.written, self.path = self.head, "", None
        try:
            yield
        finally:
            self.save()

    def keep(self, path: Path, resumed: bool) -> None:
        """Write the log to ``path`` from now on, after the text that is there if the run is ``resumed``."""
        if path != self.path:  # else the run has returned to its last checkpoint in this process
            self.earlier = path.read_text(encoding="utf-8", errors="replace") if resumed and path.is_file() else ""
        self.path = path
        self.save()

    def save(self) -> None:
        """Write the log, if it is kept and has changed."""
        if self.path and self.written != self.text:
            write_whole(self.path, self.earlier + self.text)
            self.written = self.text


class Copy:
    """An output stream whose text is copied into a log."""

    def __init__(self, stream: TextIO, log: Log) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> int:
        """Write to the stream and to the log."""
        self.log.add(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
