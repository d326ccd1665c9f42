"""How a command reads its options, and the options that several commands share. Imports nothing slow: --help waits for it."""

from __future__ import annotations

import argparse
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import UserError, leave_at_once
from lab.terminal import silence
from models.catalog import depths, find, names


def parse(arguments: Callable[[], argparse.ArgumentParser], name: str) -> argparse.Namespace:
    """The options of a command whose module has this ``__name__``; none where it is imported instead of run.

    To be called before torch is imported, which takes seconds: --help and a wrong option are answered at once, and Ctrl-C
    during the imports is one line. With ``--quiet`` standard output is silenced.
    """
    if name != "__main__":
        return argparse.Namespace()
    args = arguments().parse_args()
    if getattr(args, "quiet", False):
        silence()
    signal.signal(signal.SIGINT, leave_at_once)
    return args


class GivenParser(argparse.ArgumentParser):
    """A parser whose result has an attribute ``given``: a dict of the options on the command line, without the defaults."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options and the words that are none; argparse's ``parse_args`` calls this."""
        defaults = vars(super().parse_known_args([])[0])
        unset = object()
        # argparse sets no default where the namespace has a value already.
        found, rest = super().parse_known_args(args, argparse.Namespace(**dict.fromkeys(defaults, unset)))
        given = {option: value for option, value in vars(found).items() if value is not unset}
        return argparse.Namespace(**(defaults | given), given=given), rest


def add_places(parser: argparse._ActionsContainer) -> None:
    """Where lists, images and checkpoints are."""
    parser.add_argument("--data", default="lab3", help="folder of lists, or its name below csv/ (default: lab3)")
    parser.add_argument("--root", help="folder that the paths of the lists start from (default: the lists' own folder)")
    parser.add_argument("--weights", default="weights", type=Path, help="folder of the checkpoints (default: weights)")


def add_report(parser: argparse._ActionsContainer) -> None:
    """Where figures and tables go."""
    parser.add_argument("--report", default="report", type=Path, help="folder of figures and tables (default: report)")


def add_trained_model(parser: argparse._ActionsContainer) -> None:
    """Which trained model, and whether to average its predictions over D4."""
    help_model = "all means the ResNets that are trained (default: all)"
    parser.add_argument("--model", default="all", choices=[*names(), "all"], help=help_model)
    help_d4 = "average over the eight flips and quarter turns (default: auto, if it helped on valid)"
    parser.add_argument("--d4", default="auto", choices=["auto", "on", "off"], help=help_d4)


def add_machine(parser: argparse._ActionsContainer) -> None:
    """What the command runs on."""
    parser.add_argument("--device", default="auto", help="cuda, cpu, … (default: cuda where there is one)")
    help_precision = "of the matrix products (default: auto, bf16 where the hardware has it)"
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"], help=help_precision)


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """For commands that scripts run."""
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings and errors")


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that no run can use."""
    for row in map(find, depths() if args.model == "all" else [args.model]):
        if args.size is not None and args.size < row.smallest:
            raise UserError(f"--size {args.size} is too small: {row.title} needs {row.smallest} px or more.")
    for name, least in (("epochs", 1), ("batch_size", 2), ("accumulate", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be {least} or more, not {value}.")
    for name, limit in (("size", 4096), ("window", 16384), ("seed", 2**63 - 1)):
        value = getattr(args, name)
        if value is not None and value > limit:
            raise UserError(f"--{name} must be {limit:,} at most, not {value:,}.")
    for name in ("window", "lr"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be above 0, not {value}.")
    for name in ("weight_decay", "warmup", "clip", "patience", "seed"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {value}.")
    if not 0 <= args.smoothing < 1 or not 0 <= args.ema < 1:
        raise UserError("--smoothing and --ema must be at least 0 and below 1.")
