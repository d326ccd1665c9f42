"""What every benchmark prints of the machine, and where its table is kept."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from lab.files import write_whole


def describe() -> str:
    """Processor or GPU, cores, and versions, in one line."""
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def keep(name: str, lines: list[str], quiet: bool = False) -> None:
    """Print a benchmark's table, unless ``quiet``, and keep it in ``benchmarks/results/<name>.md``."""
    text = "\n".join(lines) + "\n"
    if not quiet:
        print(text, end="")
    write_whole(Path(__file__).parent / "results" / f"{name}.md", text)
