"""What every benchmark prints of the machine, and where its table is kept."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import torch

from lab.files import write_whole


def describe(load: bool = True) -> str:
    """Processor or GPU, cores, ``load`` at the moment, and versions, in one line."""
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        f"{f', load {os.getloadavg()[0]:.1f}' if load else ''}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def keep_option(parser: argparse.ArgumentParser, name: str) -> None:
    """``--keep``, by default a place of its own for quick tables, so that they take none of a long one that is committed."""
    parser.add_argument(
        "--keep",
        default=f"quick/{name}",
        metavar="NAME",
        help=f"keep the table in benchmarks/results/NAME.md (default: quick/{name}, which git ignores)",
    )


def keep(name: str, lines: list[str], quiet: bool = False) -> None:
    """Print a benchmark's table, unless ``quiet``, and keep it in ``benchmarks/results/<name>.md``."""
    text = "\n".join(lines) + "\n"
    if not quiet:
        print(text, end="")
    write_whole(Path(__file__).parent / "results" / f"{name}.md", text)
