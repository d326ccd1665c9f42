"""The description of the machine and the table that every benchmark writes."""

from __future__ import annotations

import argparse
import os
import platform

import torch

from lab.files import PROJECT, write_whole
from lab.hardware import processor


def describe(load: bool = True) -> str:
    """One line: CPU or GPU, cores, threads, the current ``load``, and versions."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else processor()
    return (
        f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        f"{f', load {os.getloadavg()[0]:.1f}' if load else ''}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def table_head(columns: str) -> list[str]:
    """The first two lines of a table in Markdown; ``columns`` are separated by ``|``."""
    return [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]


def keep_option(parser: argparse.ArgumentParser, name: str) -> None:
    """``--keep``; by default a file for quick tables, so that they do not replace a committed table of a long run."""
    parser.add_argument(
        "--keep",
        default=f"quick/{name}",
        metavar="NAME",
        help=f"keep the table in benchmarks/results/NAME.md (default: quick/{name}, which git ignores)",
    )


def keep(name: str, lines: list[str], quiet: bool = False) -> None:
    """Print a benchmark's table, unless ``quiet``, and write it to ``benchmarks/results/<name>.md``."""
    text = "\n".join(lines) + "\n"
    if not quiet:
        print(text, end="")
    write_whole(PROJECT / "benchmarks" / "results" / f"{name}.md", text)
