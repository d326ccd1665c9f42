"""The options of the commands: few, the same in each command, and parsed before torch is imported."""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import demo
import evaluate
import predict
import prepare
import report
import submit
import train
from lab.options import expand_home
from studies import average, import_weights
from tests.made import PROJECT, contents

COMMANDS = [train, evaluate, predict, demo, import_weights]


def options(module: ModuleType) -> dict[str, tuple[object, object, object]]:
    """Each option of a command with its default, type and choices."""
    values: dict[str, tuple[object, object, object]] = {}
    for action in module.arguments()._actions:
        choices = None if action.choices is None else tuple(action.choices)
        values |= dict.fromkeys(action.option_strings, (action.default, action.type, choices))
    return values


def test_an_option_is_the_same_in_each_command() -> None:
    parsers = [options(module) for module in COMMANDS]
    for name in set.union(*map(set, parsers)) - {"--model"}:  # train.py has another default
        assert len({parser[name] for parser in parsers if name in parser}) == 1, name
    assert all({"--data", "--root", "--weights", "--device", "--precision"} <= parser.keys() for parser in parsers)


def test_train_has_few_options_in_named_groups() -> None:
    parser = train.arguments()
    groups = [group for group in parser._action_groups if group._group_actions]
    assert sum(len(group._group_actions) for group in groups[1:]) <= 33  # beside --help and --quiet
    assert [group.title for group in groups[1:]] == ["what to train", "images", "recipe", "machine"]
    assert [action.dest for action in groups[0]._group_actions] == ["help", "quiet"]


@pytest.mark.parametrize("module", [*COMMANDS, report, submit, prepare, average])
def test_help_imports_nothing_slow(module: ModuleType) -> None:
    code = f"""import runpy, sys
sys.argv = ["{module.__name__}", "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as done:
    print("loaded", done.code, {{"torch", "numpy", "pandas", "PIL", "sklearn", "matplotlib"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("loaded 0 set()\n"), done.stdout[-300:] + done.stderr
    assert "usage:" in done.stdout


def test_given_are_the_options_on_the_command_line() -> None:
    """Also if the value is the default."""
    args = train.arguments().parse_args(["--epochs", "30", "--no-zero-init", "--weights", "w"])
    assert args.given == {"epochs": 30, "zero_init": False, "weights": Path("w")}
    assert (args.epochs, args.zero_init, args.weights, args.report) == (30, False, Path("w"), Path("report"))
    assert train.arguments().parse_args([]).given == {}


FAILS = {  # options that each command refuses at once
    train: ["--data", "nowhere"],
    evaluate: ["--data", "nowhere"],
    predict: ["--data", "nowhere"],
    demo: ["--data", "nowhere"],
    report: ["--date", "some day"],
    submit: ["--data", "nowhere"],
    prepare: ["cnmc", "nowhere"],
    average: ["nowhere", "--out", "nowhere"],
    import_weights: ["nowhere.pth"],
}


WRONG = {  # for each command line a part of its error; ``lists`` are there, but no images and no networks
    ("train.py", "--data", "nowhere"): "no lists found for --data nowhere",
    ("train.py", "--data", "lists", "--root", "nowhere"): "--root nowhere is not a folder",
    ("train.py", "--data", "tests"): "csv/tests/train.csv: there is no such list",
    ("train.py", "--data", "lists", "--size", "1"): "--size 1 is too small",
    ("train.py", "--like", "nowhere"): "nowhere/best.safetensors: there is no such checkpoint",
    ("evaluate.py", "--data", "nowhere"): "no lists found for --data nowhere",
    ("evaluate.py", "--data", "lists"): "weights/lists: no trained model there",
    (
        "evaluate.py",
        "--data",
        "lists",
        "--model",
        "resnet50",
    ): "weights/lists/resnet50/best.safetensors: there is no such",
    ("predict.py", "--data", "nowhere"): "no lists found for --data nowhere",
    ("predict.py", "--data", "lists", "--model", "resnet18"): "resnet_18_test.csv: there is no such list",
    ("predict.py", "--data", "lists", "--weights", "nowhere"): "nowhere/lists: no trained model there",
    ("predict.py", "--data", "lists", "--check", "nowhere.csv"): "nowhere.csv: there is no such list",
    (
        "predict.py",
        "--check",
        "csv/lists/train.csv",
        "--labels",
        "nowhere.csv",
        "--data",
        "lists",
    ): "nowhere.csv: there is",
    ("demo.py", "--data", "lists", "nowhere.bmp"): "nowhere.bmp: cannot be read",
    ("demo.py", "--data", "lists", "text.bmp"): "text.bmp: not an image that Pillow can read",
    ("demo.py", "--data", "lists"): "weights/lists: no trained model there",
    ("report.py", "--data", "lists", "--root", "nowhere"): "--root nowhere is not a folder",
    ("report.py", "--data", "nowhere"): "no lists found for --data nowhere",
    ("submit.py", "--data", "lists"): "give --student-id and --name",
    ("submit.py", "--data", "nowhere", "--name", "x", "--student-id", "3116"): "no lists found for --data nowhere",
    ("submit.py", "--prove", "nowhere"): "nowhere: no trained model there",
    ("submit.py", "--kaggle", "--data", "nowhere"): "no lists found for --data nowhere",
    ("submit.py", "--kaggle", "--data", "lists", "--settings", "nowhere.ini"): "nowhere.ini: there is no such file",
    ("prepare.py", "folders", "nowhere"): "nowhere is not a folder",
    ("prepare.py", "kaggle", "--archive", "nowhere.zip"): "nowhere.zip: there is no such archive",
    ("prepare.py", "cnmc", "nowhere"): "nowhere is not a folder",
    ("prepare.py", "medmnist", "nowhere.npz"): "nowhere.npz is not a MedMNIST .npz",
    (
        "studies/average.py",
        "nowhere",
        "elsewhere",
        "--out",
        "x",
    ): "nowhere/best.safetensors: there is no such checkpoint",
    ("studies/import_weights.py", "nowhere.pth"): "nowhere.pth: cannot be read",
}


@pytest.mark.parametrize("line", WRONG, ids=" ".join)
def test_a_wrong_path_is_reported_before_anything_slow_is_imported(line: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("torch", "pandas", "sklearn", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} is imported')")
    for name, file in (("lists", "train"), ("lists", "valid"), ("tests", "resnet_18_test")):
        (tmp_path / "csv" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "csv" / name / f"{file}.csv").write_text("Path,label\na.bmp,0\nb.bmp,1\n")
    (tmp_path / "text.bmp").write_text("no image")
    before = contents(tmp_path)
    words = [sys.executable, str(PROJECT / line[0]), *line[1:]]
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: ") and WRONG[line] in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize("module", FAILS)
def test_a_command_parses_its_options_once(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse_args = argparse.ArgumentParser.parse_args

    def counted(parser: argparse.ArgumentParser, *arguments: object) -> object:
        parsed.append(arguments)
        return parse_args(parser, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", counted)
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *FAILS[module]])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(module.__file__), run_name="__main__")
    assert ended.value.code == 2 and parsed == [()]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(str(module.__file__), run_name="imported")
    assert parsed == [()]


@pytest.mark.parametrize("module", [train, evaluate, predict, demo, report, submit, prepare])
def test_a_command_finds_its_package_without_the_scripts_folder_in_the_path(module: ModuleType, tmp_path: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    line = [sys.executable, str(module.__file__), "--help"]
    done = subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_home_directory_is_expanded_in_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/student")
    parsed = train.arguments().parse_args(["--root", "~/images", "--weights", "~/w", "--report", "r~", "--like", "~"])
    args = expand_home(parsed)
    assert (args.root, args.weights, args.report) == ("/home/student/images", Path("/home/student/w"), Path("r~"))
    assert args.given["root"] == args.root and args.like == Path("/home/student")
    cell = expand_home(demo.arguments().parse_args(["~/cell.bmp", "b.bmp"])).images
    assert cell == [Path("/home/student/cell.bmp"), Path("b.bmp")]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_of_any_encoding_gets_the_help(encoding: str) -> None:
    variables = os.environ | {"PYTHONIOENCODING": encoding}
    line = [sys.executable, str(PROJECT / "prepare.py"), "--help"]
    output = subprocess.run(line, capture_output=True, env=variables, check=True).stdout.decode(encoding)
    assert ("→ csv/sample" if encoding == "utf-8" else "-> csv/sample") in output


def test_a_closed_stream_is_not_replaced_by_the_next_file(tmp_path: Path) -> None:
    code = "from lab.terminal import prepare_streams; prepare_streams(); file = open('data', 'w'); print('an error');"
    code += "sys.exit(file.fileno())"
    script = f'exec {sys.executable} -c "import sys; {code}" 2>&- >&-'
    variables = os.environ | {"PYTHONPATH": str(PROJECT)}
    assert subprocess.run(["sh", "-c", script], cwd=tmp_path, env=variables, check=False).returncode > 2
    assert (tmp_path / "data").read_bytes() == b""


@pytest.mark.parametrize(
    ("words", "variable", "folder"),
    [([], None, ".store"), (["--store", "a"], None, "a"), ([], "b", "b"), (["--store", "a"], "b", "a")],
)
def test_the_image_store_is_moved_by_an_option_or_a_variable(
    words: list[str], variable: str | None, folder: str
) -> None:
    script = "import argparse; from lab.options import add_places, parse; parser = argparse.ArgumentParser()\n"
    script += "add_places(parser); parse(lambda: parser, '__main__')\n"
    script += "from lab.data.batches import STORES; print(STORES)"
    variables = {key: value for key, value in os.environ.items() if key != "RESNET_STORE"}
    variables |= {"PYTHONPATH": str(PROJECT)} | ({"RESNET_STORE": variable} if variable else {})
    line = [sys.executable, "-c", script, *words]
    assert subprocess.run(line, capture_output=True, text=True, env=variables, check=True).stdout == f"{folder}\n"
