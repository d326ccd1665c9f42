"""Each row of the README's results has a script in runs/, with the options of the committed run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import train
from models.catalog import find
from tests.made import PROJECT

RUNS = sorted((PROJECT / "runs").glob("*_resnet*.sh"))
COMPARISONS = sorted((PROJECT / "runs").glob("compare_*.sh"))


def options(script: Path) -> dict[str, object]:
    """The options of train.py in a script, parsed by train.py."""
    (line,) = re.findall(r"train\.py (.*)", script.read_text(encoding="utf-8"))
    return vars(train.arguments().parse_args(shlex.split(line)))


def test_each_row_of_the_results_has_a_script() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| \d+ min ", text, flags=re.MULTILINE)
    assert len(rows) == 9
    assert {script.stem for script in RUNS} == {f"{data}_resnet{depth}" for data, depth, _, _ in rows}
    for data, depth, size, epochs in rows:
        given = options(PROJECT / "runs" / f"{data}_resnet{depth}.sh")
        assert given["model"] == f"resnet{depth}" and given["epochs"] == int(epochs)
        assert given["size"] in (int(size), None)


@pytest.mark.parametrize("script", RUNS, ids=lambda path: path.stem)
def test_a_script_is_valid_and_repeats_the_committed_run(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode != 0 and "name the folder that holds" in done.stderr  # and no message of bash
    data, model = script.stem.split("_")
    committed = PROJECT / "report" / "results" / data / f"run_{model}.json"
    if committed.is_file():
        assert differences(committed, options(script)) == {}


def differences(committed: Path, given: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """The settings of a committed run that differ from the options of a script, which leaves some to the model's recipe."""
    settings = json.loads(committed.read_text(encoding="utf-8"))["settings"]
    given |= {name: value for name, value in find(given["model"]).recipe.items() if name not in given["given"]}
    return {key: (value, given[key]) for key, value in settings.items() if given.get(key) not in (None, value)}


@pytest.mark.parametrize("script", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_repeats_the_committed_runs(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode != 0 and "name the folder that holds" in done.stderr
    lines = re.findall(r"^model (.*)", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parsed = [vars(train.arguments().parse_args(["--size", "64", *shlex.split(line)])) for line in lines]
    assert len(parsed) >= 7
    for given in parsed:
        committed = PROJECT / "report" / "results" / script.stem.split("_")[1] / f"run_{given['model']}.json"
        if committed.is_file():
            assert differences(committed, given) == {}, given["model"]
