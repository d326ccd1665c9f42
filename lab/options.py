"""Parses the options of a command, and defines those that several commands share. Imports nothing slow, because --help waits."""

from __future__ import annotations

import argparse
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import UserError, leave_at_once, reported
from lab.terminal import prepare_streams, silence
from models.catalog import depths, find, names


def parse(
    arguments: Callable[[], argparse.ArgumentParser],
    name: str,
    check: Callable[[argparse.Namespace], None] = lambda _: None,
) -> argparse.Namespace:
    """The options of the command whose module has this ``__name__``; no options if the module is imported.

    Call this before importing torch, which takes seconds, so that --help and a wrong option are answered at once and Ctrl-C
    during the imports prints one line. ``check`` raises :class:`UserError` for wrong paths, and imports nothing slow either. With
    ``--quiet`` standard output is discarded.
    """
    if name != "__main__":
        return argparse.Namespace()
    prepare_streams()
    args = expand_home(arguments().parse_args())
    if getattr(args, "store", None):
        os.environ["RESNET_STORE"] = str(args.store)  # read when lab/data/batches.py is imported
    if getattr(args, "threads", None):
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when torch is imported
    if getattr(args, "quiet", False):
        silence()
    signal.signal(signal.SIGINT, leave_at_once)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process reports an error
        with reported():
            check(args)
    return args


def expand_home(args: argparse.Namespace) -> argparse.Namespace:
    """The options with ``~`` at the beginning of a path replaced by the home directory, as a shell does for separate words."""

    def expand(value: Any) -> Any:
        if isinstance(value, Path) or (isinstance(value, str) and value.startswith("~")):
            return type(value)(os.path.expanduser(value))  # noqa: PTH111
        if isinstance(value, dict):
            return {key: expand(item) for key, item in value.items()}
        return [expand(item) for item in value] if isinstance(value, list) else value

    return argparse.Namespace(**expand(vars(args)))


class GivenParser(argparse.ArgumentParser):
    """A parser whose result has an attribute ``given``: a dict of the options on the command line, without the defaults."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options and the unknown arguments; called by argparse's ``parse_args``."""
        defaults = vars(super().parse_known_args([])[0])
        unset = object()
        # argparse sets no default for a name that the namespace already has.
        parsed, rest = super().parse_known_args(args, argparse.Namespace(**dict.fromkeys(defaults, unset)))
        given = {option: value for option, value in vars(parsed).items() if value is not unset}
        return argparse.Namespace(**(defaults | given), given=given), rest


def add_places(parser: argparse._ActionsContainer) -> None:
    """The folders of lists, images and checkpoints."""
    parser.add_argument("--data", default="lab3", help="folder of lists, or its name below csv/ (default: lab3)")
    parser.add_argument(
        "--root",
        help="folder that the lists' paths are relative to (default: the folder of the lists, then the working directory)",
    )
    help_store = "folder of the decoded images (default: the environment variable RESNET_STORE, else .store)"
    parser.add_argument("--store", type=Path, help=help_store)
    parser.add_argument("--weights", default="weights", type=Path, help="folder of the checkpoints (default: weights)")


def add_report(parser: argparse._ActionsContainer) -> None:
    """The folder of figures and tables."""
    parser.add_argument("--report", default="report", type=Path, help="folder of figures and tables (default: report)")


def add_trained_model(parser: argparse._ActionsContainer) -> None:
    """The trained model, and whether to average its predictions over D4."""
    help_model = "all means every trained ResNet (default: all)"
    parser.add_argument("--model", default="all", choices=[*names(), "all"], help=help_model)
    help_d4 = "average over the eight flips and quarter turns (default: auto, if it helped on valid)"
    parser.add_argument("--d4", default="auto", choices=["auto", "on", "off"], help=help_d4)


def add_machine(parser: argparse._ActionsContainer) -> None:
    """Device, precision and threads."""
    parser.add_argument("--device", default="auto", help="cuda, cpu, … (default: cuda if available)")
    help_precision = "of the matrix products (default: auto, bf16 if the hardware has it)"
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"], help=help_precision)
    help_threads = "number of CPU threads (default: OMP_NUM_THREADS, else chosen, fewer beside other programs)"
    parser.add_argument("--threads", type=positive, help=help_threads)


def positive(text: str) -> int:
    """The whole number above 0 in ``text``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """The option that discards standard output."""
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings and errors")


def check_numbers(args: argparse.Namespace) -> None:
    """Raise :class:`UserError` for a number that is out of range."""
    for row in map(find, depths() if args.model == "all" else [args.model]):
        if args.size is not None and args.size < row.smallest:
            raise UserError(f"--size {args.size} is too small: {row.title} needs {row.smallest} px or more.")
        if args.size is not None and args.size % row.multiple:
            raise UserError(f"--size {args.size}: {row.title} needs a multiple of {row.multiple} px.")
    least = {"epochs": 1, "batch_size": 2, "accumulate": 1}
    for name in (*least, "weight_decay", "warmup", "clip", "patience", "seed"):
        value = getattr(args, name)
        if value is not None and not least.get(name, 0) <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be {least.get(name, 0)} or more, not {value}.")
    for name, limit in (("size", 4096), ("window", 16384), ("seed", 2**63 - 1)):
        value = getattr(args, name)
        if value is not None and value > limit:
            raise UserError(f"--{name} must be {limit:,} at most, not {value:,}.")
    for name in ("window", "lr", "budget"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be above 0, not {value}.")
    if not 0 <= args.smoothing < 1 or not 0 <= args.ema < 1:
        raise UserError("--smoothing and --ema must be at least 0 and below 1.")
