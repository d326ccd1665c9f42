"""``train.py`` with thin networks, as processes that tests can kill.

Under torchrun it trains with the options given. Without options it waits for requests on standard input and answers each with
forked children, so that only the first start pays for importing torch, and ``torch._dynamo``, which the first optimizer of a
process would import in two seconds. A request is a JSON list of a folder, a command to run instead of the thin training (or
""), its options, and the environment variables of each child. The answer is the children's numbers, then their exit status.

STOP_AFTER=N in the environment ends a run after N epochs; SNAPSHOT=0 keeps a snapshot after every step. A file called ``hold``
in the folder lets the step whose number it holds wait until it is gone; ``held`` says so. NAN_ON=R lets the loss of rank R be
NaN, once, in the second epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch._dynamo
from torch import Tensor
from torch.nn import functional

import train
from lab.errors import run
from lab.options import parse
from lab.training import snapshots
from lab.training.ema import EMA
from tests import made

save, update, cross_entropy = snapshots.save_checkpoint, EMA.update, functional.cross_entropy


def save_and_stop(path: Path, about: Any, tensors: Any, state: Any) -> None:
    """Save, and stop as Ctrl-C would once the wanted epoch is kept."""
    save(path, about, tensors, state)
    if state.epoch == int(os.environ["STOP_AFTER"]):
        raise KeyboardInterrupt


def update_and_hold(self: EMA, step: int) -> None:
    """A step that lasts as long as a test wants."""
    update(self, step)
    hold = Path("hold")
    with contextlib.suppress(FileNotFoundError):
        if step == int(hold.read_text()):
            Path("held").touch()
            while hold.exists():
                time.sleep(0.002)


def loss_once_not_a_number() -> Callable[..., Tensor]:
    """A loss that is NaN in its seventh call: two are made to measure a step, three in each epoch."""
    calls = count(1)

    def loss(*given: Any, **more: Any) -> Tensor:
        return cross_entropy(*given, **more) * (float("nan") if next(calls) == 7 else 1.0)

    return loss


def thin_train() -> None:
    """Run the command in the working directory."""
    if "STOP_AFTER" in os.environ:
        snapshots.save_checkpoint = save_and_stop  # type: ignore[assignment]
    EMA.update = update_and_hold  # type: ignore[method-assign]
    if os.environ.get("NAN_ON", "none") == os.environ.get("RANK"):
        functional.cross_entropy = loss_once_not_a_number()
    snapshots.INTERVAL = float(os.environ.get("SNAPSHOT", snapshots.INTERVAL))
    with made.inside(Path.cwd(), figures=False):
        run(train.main, parse(train.arguments, "__main__"))


def fork(folder: str, command: str, options: list[str], environment: dict[str, str]) -> int:
    """Start a command, or the thin training, in a child; its number. It writes to the files stdout and stderr, with the rank."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    os.setsid()
    os.environ.update(environment)
    sys.argv[:] = [command, *options]
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name + environment.get("RANK", ""), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    status = 0
    try:
        if command:
            runpy.run_path(command, run_name="__main__")
        else:
            thin_train()
    except SystemExit as ended:
        status = int(ended.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without the parent's clearing up


def serve() -> None:
    """Answer requests until standard input ends. Where one of several ranks fails the others are ended, as torchrun does."""
    assert torch._dynamo
    print("ready", flush=True)
    for line in sys.stdin:
        folder, command, options, environments = json.loads(line)
        children = [fork(folder, command, options, environment) for environment in environments]
        print(*children, flush=True)
        status = 0
        while children:
            child, ended = os.wait()
            children.remove(child)
            status = status or os.waitstatus_to_exitcode(ended)
            if status:
                for other in children:
                    os.kill(other, signal.SIGTERM)
        print(status, flush=True)
    os._exit(0)  # taking all that was imported apart would take seconds


if __name__ == "__main__":
    thin_train() if sys.argv[1:] else serve()
