"""``train.py`` with thin networks, in processes that tests can kill.

With options it trains, as under torchrun. Without options it reads requests from standard input and forks children for each, so
that torch is imported only once, and ``torch._dynamo``, whose import by a process's first optimizer takes two seconds. A request
is a JSON list: a folder, a command to run instead of the training (or ""), its options, and the environment variables of each
child. The answer is the children's process numbers, then their exit status.

Environment variables: SNAPSHOT=0 writes a snapshot after every step, NAN_ON=R makes the loss of rank R NaN once in the second
epoch. If the folder has a file ``hold``, the step with the number in this file creates the file ``held`` and waits until
``hold`` is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import torch._dynamo

import train
from lab.errors import run
from lab.options import parse
from lab.training import snapshots
from lab.training.ema import EMA
from tests import made


def wait_if_held(_: EMA, step: int) -> None:
    """Wait while the file ``hold`` has this step's number."""
    hold = Path("hold")
    with contextlib.suppress(FileNotFoundError):
        if step == int(hold.read_text()):
            Path("held").touch()
            while hold.exists():
                time.sleep(0.002)


def thin_train() -> None:
    """Run the command in the working directory."""
    snapshots.INTERVAL = float(os.environ.get("SNAPSHOT", snapshots.INTERVAL))
    with made.inside(Path.cwd(), figures=False) as patch:
        made.after_steps(patch, wait_if_held)
        if os.environ.get("NAN_ON", "none") == os.environ.get("RANK"):
            made.set_loss_to_nan(patch, 7, 7)  # after two calls to measure a step, and three in the first epoch
        run(train.main, parse(train.arguments, "__main__", train.check_paths))


def fork(folder: str, command: str, options: list[str], environment: dict[str, str]) -> int:
    """Run a command, or the thin training, in a child. Returns its process number. The output goes to the files stdout and
    stderr, with the rank as suffix."""
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
    os._exit(status)  # without the parent's exit handlers


def serve() -> None:
    """Answer requests until standard input ends. If one of several ranks fails, the others are terminated, as by torchrun."""
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
    os._exit(0)  # a regular exit takes seconds


if __name__ == "__main__":
    thin_train() if sys.argv[1:] else serve()
