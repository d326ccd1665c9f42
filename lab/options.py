"""The options that several commands share, in one place, so that they read alike. Imports nothing slow: --help waits for it."""

from __future__ import annotations

import argparse
from pathlib import Path

MODELS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
DEPTHS = ["resnet18", "resnet50", "resnet152"]  # the lab's three


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
    help_model = "all means those that are trained (default: all)"
    parser.add_argument("--model", default="all", choices=[*MODELS, "all"], help=help_model)
    help_d4 = "average over the eight flips and quarter turns (default: auto, if it helped on valid)"
    parser.add_argument("--d4", default="auto", choices=["auto", "on", "off"], help=help_d4)


def add_machine(parser: argparse._ActionsContainer) -> None:
    """What the command runs on."""
    parser.add_argument("--device", default="auto", help="cuda, cpu, … (default: cuda where there is one)")
    help_precision = "of the matrix products (default: auto, bf16 where the hardware has it)"
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"], help=help_precision)
