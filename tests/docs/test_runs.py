"""Each row of the README's results has a script in runs/, with the options of the committed run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import train
from tests.made import PROJECT

RUNS = sorted((PROJECT / "runs").glob("*.sh"))


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
        settings, given = json.loads(committed.read_text(encoding="utf-8"))["settings"], options(script)
        differ = {key: (value, given[key]) for key, value in settings.items() if given.get(key) not in (None, value)}
        assert differ == {}
