"""submit.py: the contents of the zips, the checks before they are written, and the names of students."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import subprocess
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import evaluate
import predict
import report
import submit
from lab.data.lists import read_data_set
from lab.errors import UserError
from lab.handin import checks, zips
from tests import made
from tests.made import DEPTHS, PROJECT, command, inside, script

STUDENT = ("--student-id", "311605004", "--name", "劉子齊")
TITLE = "DLP_LAB3_311605004_劉子齊"
PDF = b"%PDF-1.7\nthe report\n%%EOF\n"


JUNK = [".git/config", "lab/__pycache__/errors.pyc", ".env/x.py", "env/pyvenv.cfg", "env/lib/os.py", "data/x.py"]
JUNK += ["mine/0.bmp", "report/other/roc.png", "report/results/other/roc.png", "report/tiny/tensorboard/events"]
RESULTS = [
    "report/tiny/roc.png",
    "report/tiny/metrics_resnet18.csv",
    "report/tiny/run_resnet18.json",
    "report/tiny/log_resnet18.txt",
    "report/tiny/discussion.txt",
]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def unpack(folder: Path, target: Path) -> None:
    """Unpack all zips of a folder."""
    for archive in folder.glob("*.zip"):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(target)


@pytest.fixture(scope="module")
def project(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with thin networks, everything for a hand-in of ``tiny``, and files that do not belong into it."""
    folder = tmp_path_factory.mktemp("hand-in") / "project"
    for name, path in zips.source_files(PROJECT).items():
        write(folder / name, path.read_bytes())
    thin = inspect.getsource(made.Thin) + "\n\n" + inspect.getsource(made.thin).replace("def thin(", "def build(")
    with (folder / "models" / "catalog.py").open("a") as file:
        file.write("\nfrom torch import Tensor, nn\nfrom resnet import BasicBlock\n\n" + thin)
    for name in ("csv/tiny", "weights/tiny"):
        shutil.copytree(trained / name, folder / name)
    with inside(folder):
        command(predict, "--data", "tiny", "--device", "cpu", "--precision", "fp32")
    shutil.rmtree(folder / ".store")
    write(folder / "report" / "tiny" / "report.pdf", PDF)
    write(folder / "mine" / "loss.py", b"FOCUS = 2\n")
    for name in JUNK:
        write(folder / name, b"not for the hand-in")
    for name in RESULTS:
        write(folder / name, b"a result")
    return folder


@pytest.fixture(scope="module")
def handed_in(project: Path) -> Path:
    """The folder of the project's zips, written by the command."""
    out = project.parent / "out"
    done = script(project, project / "submit.py", *STUDENT, "--data", "tiny", "--out", out)
    assert done.returncode == 0, done.stderr
    for model in DEPTHS:
        expected = rf"^{model}: loads and computes, [\d,]+ parameters, 2 classes, [\d.]+ % on valid"
        assert re.search(expected, done.stdout, re.M)
    assert f"wrote {out}/{TITLE}.zip: report.pdf and " in done.stdout
    return out


# ---- the zips --------------------------------------------------------------------------------------------------------


def test_the_zips_can_be_opened_on_every_system(handed_in: Path) -> None:
    assert sorted(path.name for path in handed_in.iterdir()) == sorted(zips.zip_names(TITLE))
    for archive in handed_in.iterdir():
        with zipfile.ZipFile(archive) as zipped:
            assert zipped.testzip() is None
            entries = zipped.infolist()
            raw = [entry.orig_filename for entry in entries]
            assert raw == sorted(raw) and len({name.lower() for name in raw}) == len(raw)
            for entry in entries:
                assert entry.filename.startswith(f"{TITLE}/") and entry.flag_bits & 0x800  # names are UTF-8, and marked
                assert not re.search(r"\\|\.\.|//|:|__MACOSX|__pycache__|/\.", entry.filename)
                assert entry.date_time == (1980, 1, 1, 0, 0, 0) and entry.external_attr >> 16 == 0o100644


def test_the_contents_of_the_zip(handed_in: Path, project: Path) -> None:
    with zipfile.ZipFile(handed_in / f"{TITLE}.zip") as zipped:
        files = {name.removeprefix(f"{TITLE}/"): zipped.read(name) for name in zipped.namelist()}
    assert files["report.pdf"] == PDF and "mine/loss.py" in files
    modules = ["train.py", "resnet/resnet.py", "lab/handin/checks.py", "tests/made.py"]
    for name in (*modules, "README.md", "kaggle.ini", "Makefile"):
        assert files[name] == (project / name).read_bytes()
    expected = ["train", "valid", "classes", *(f"resnet_{depth}_test" for depth in (18, 50, 152))]
    expected += [f"submission_{model}" for model in DEPTHS]
    records = {f"csv/tiny/submission_{model}.json" for model in DEPTHS}
    lists = {name for name in files if name.startswith("csv/")}
    assert lists == {f"csv/tiny/{name}.csv" for name in expected} | records | {"csv/README.md"}
    assert not files.keys() & set(JUNK)
    results = sorted(name for name in files if name.startswith(("weights/tiny", "report/")))
    assert results == sorted([*RESULTS, *(f"report/results/{name}" for name in zips.PICTURES)])


def test_each_form_gets_the_weights_that_it_asks_for(handed_in: Path) -> None:
    for form, models in (("18_50", ["resnet18", "resnet50"]), ("152", ["resnet152"])):
        with zipfile.ZipFile(handed_in / f"{TITLE}_weights_{form}.zip") as zipped:
            names = {name.removeprefix(f"{TITLE}/weights/tiny/") for name in zipped.namelist()}
        files = ("best.safetensors", "SHA256SUMS")
        assert names == {"README.txt", *(f"{model}/{file}" for model in models for file in files)}


def test_no_file_of_the_repository_is_missing() -> None:
    if not (PROJECT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "-C", PROJECT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and not name.startswith(".") and (PROJECT / name).is_file()}
    missing = tracked - zips.source_files(PROJECT).keys()
    assert {name for name in missing if not name.startswith("report/results/")} == set()


def test_the_same_files_give_the_same_bytes_and_the_weights_can_be_checked(
    handed_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unpacked together, without git, the zips give identical zips; the commands in their README check the weights."""
    unpack(handed_in, tmp_path)
    folder = tmp_path / TITLE
    monkeypatch.setattr(submit, "PROJECT", folder)
    with inside(folder):
        command(submit, *STUDENT, "--data", "tiny")
    for archive in handed_in.iterdir():
        assert (folder / archive.name).read_bytes() == archive.read_bytes()

    weights = folder / "weights" / "tiny"
    readme = (weights / "README.txt").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if "--prove" in line).split("#")[0].split()
    assert line == ["python", "submit.py", "--prove", "weights/tiny"]
    capsys.readouterr()
    with inside(folder):
        command(submit, *line[2:])
    assert capsys.readouterr().out.count("loads and computes") == 3
    if shutil.which("sha256sum"):
        for model in DEPTHS:
            check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=weights / model, capture_output=True)
            assert check.returncode == 0 and check.stdout.count(b"OK") == 1

    best = weights / "resnet50" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-1] + b"\1")
    (weights / "resnet18" / "best.safetensors").unlink()
    (weights / "resnet152" / "SHA256SUMS").unlink()
    with inside(folder), pytest.raises(UserError) as caught:
        command(submit, *line[2:])
    assert "resnet50/best.safetensors: differs from the file that was handed in" in str(caught.value)
    assert "resnet18/best.safetensors: is missing; unpack the zip again" in str(caught.value)
    text = "weights/tiny/resnet152/SHA256SUMS: is missing, so the files' bytes are not compared"
    assert text in capsys.readouterr().out.splitlines()


def test_the_members_of_an_average_are_handed_in(tmp_path: Path) -> None:
    members = [tmp_path / "best.safetensors", tmp_path / "member_2.safetensors"]
    for path in members:
        path.write_bytes(path.name.encode())
    bundle = zips.weights_bundle("T", "tiny", {"resnet18": members})
    sums = bundle["weights/tiny/resnet18/SHA256SUMS"]
    assert isinstance(sums, bytes)
    expected = [f"{hashlib.sha256(path.name.encode()).hexdigest()}  {path.name}" for path in members]
    assert sums.decode().splitlines() == expected
    assert {f"weights/tiny/resnet18/{path.name}" for path in members} < bundle.keys()


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_all_that_is_missing_is_reported_together_with_its_command(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    (copy / "report" / "tiny" / "report.pdf").unlink()
    (copy / "README.md").unlink()
    shutil.rmtree(copy / "weights" / "tiny" / "resnet18")
    (copy / "csv" / "tiny" / "submission_resnet50.csv").unlink()
    lines = (copy / "csv" / "tiny" / "submission_resnet152.csv").read_text().splitlines()
    (copy / "csv" / "tiny" / "submission_resnet152.csv").write_text("\n".join(lines[:-1]) + "\n")
    monkeypatch.setattr(submit, "PROJECT", copy)
    monkeypatch.setattr(submit, "prove_unpacked", lambda *_: (["train: cannot be imported"], []))
    with inside(copy), pytest.raises(UserError) as caught:
        command(submit, *STUDENT, "--data", "tiny", "--out", "out")
    assert not list((copy / "out").iterdir())
    title, *problems, last = str(caught.value).splitlines()
    assert title == "nothing was written, because the hand-in is not complete:"
    remedies = {
        "report/tiny/report.pdf: is missing": "python report.py --student-id 311605004 --name '劉子齊' --data tiny",
        "README.md: is missing": "copy it from the project",
        "weights/tiny/resnet18/best.safetensors: is missing": "python train.py --model resnet18 --data tiny",
        "csv/tiny/submission_resnet50.csv: is missing": "python predict.py --model resnet50 --data tiny",
        "csv/tiny/submission_resnet152.csv: 1 problem:; there is no row for": "python predict.py --model resnet152 --data tiny",
    }
    for line, (fault, remedy) in zip(problems, remedies.items(), strict=True):
        assert line.startswith(f"  {fault}") and line.endswith(f"; {remedy}")
    assert last == "  train: cannot be imported"


def test_sources_that_need_what_is_not_in_the_zip(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    files = {
        "zip/resnet/__init__.py": "",
        "zip/dataloader.py": "import csv, json",
        "zip/train.py": f"import sys\nsys.path.append({str(elsewhere)!r})\nimport predict, lab.errors",
        "zip/evaluate.py": "import tricks",
        "zip/demo.py": "def broken(:",
        "zip/csv/list.csv": "Path,label",
        "elsewhere/predict.py": "",
        "elsewhere/lab/errors.py": "",
    }
    for name, text in files.items():
        write(tmp_path / name, text.encode())
    faults, _ = checks.prove_unpacked(tmp_path / "zip", None)
    assert [fault.split(" (")[0] for fault in faults] == [
        "evaluate: cannot be imported from the zip alone",
        "demo: cannot be imported from the zip alone",
        f"lab.errors: comes from {elsewhere}/lab/errors.py, not from the zip",
        f"predict: comes from {elsewhere}/predict.py, not from the zip",
    ]
    assert "ModuleNotFoundError: No module named 'tricks'" in faults[0] and "SyntaxError" in faults[1]


def test_weights_that_do_not_load(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MODULES", ("resnet",))  # to save time
    weights = tmp_path / "weights" / "tiny"
    shutil.copytree(project / "weights" / "tiny", weights)
    shutil.copyfile(weights / "resnet18" / "best.safetensors", weights / "resnet50" / "best.safetensors")
    (weights / "resnet152" / "best.safetensors").write_bytes(b"half")
    faults, rows = checks.prove_unpacked(project, weights)
    assert rows == [] and len(faults) == 1
    assert "tiny/resnet50/best.safetensors: expected weights of resnet50, found weights of resnet18" in faults[0]
    assert "tiny/resnet152/best.safetensors: expected a checkpoint in safetensors format" in faults[0]


def test_a_dry_run_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "PROJECT", project)
    monkeypatch.setattr(submit, "prove_unpacked", lambda *_: ([], []))
    before = made.outputs(project)
    with inside(project):
        command(submit, *STUDENT, "--data", "tiny", "--dry-run")
    assert made.outputs(project) == before
    assert f"would write {TITLE}.zip: report.pdf and " in capsys.readouterr().out


def test_an_older_zip_stays_if_the_new_one_fails(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = dict.fromkeys(zips.zip_names(TITLE), b"older")
    for name, content in older.items():
        write(tmp_path / name, content)
    monkeypatch.setattr(submit, "PROJECT", project)
    monkeypatch.setattr(submit, "prove_unpacked", lambda *_: (["weights: no"], []))
    with inside(project), pytest.raises(UserError, match="weights: no"):
        command(submit, *STUDENT, "--data", "tiny", "--out", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_an_interpreter_that_fails_or_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHILD", "raise SystemExit('no space')")
    expected = "the sources: the interpreter that imports them from the zip alone failed (no space)"
    assert checks.prove_unpacked(tmp_path, None) == ([expected], [])
    monkeypatch.setattr(checks, "CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(checks, "TIMEOUT", 0.2)
    assert "took more than" in checks.prove_unpacked(tmp_path, None)[0][0]


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7\nhalf of it", b"<html>%%EOF"])
def test_a_report_that_is_not_a_pdf(tmp_path: Path, data: bytes) -> None:
    write(tmp_path / "report.pdf", data)
    assert zips.report_fault(tmp_path / "report.pdf") == "is not a complete PDF"


def test_an_unfinished_report_is_refused_unless_anyway(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typst")
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    monkeypatch.setattr(submit, "PROJECT", copy)
    monkeypatch.setattr(submit, "prove_unpacked", lambda *_: ([], []))
    words = copy / "report" / "tiny" / "discussion.txt"
    with inside(copy):
        words.unlink()
        command(report, "--data", "tiny", "--name", "劉子齊")
        with pytest.raises(UserError) as caught:
            command(submit, *STUDENT, "--data", "tiny")
        remedy = "python report.py --student-id 311605004 --name '劉子齊' --data tiny"
        assert str(caught.value).splitlines()[1:] == [
            "  report/tiny/report.pdf: is unfinished, without student ID, discussion; write the discussion into "
            f"report/tiny/discussion.txt, then {remedy} (--anyway hands it in as it is)"
        ]
        assert not list(copy.glob("*.zip"))
        command(submit, *STUDENT, "--data", "tiny", "--anyway")
        assert "is unfinished, without student ID, discussion" in capsys.readouterr().err
        assert len(list(copy.glob("*.zip"))) == 3
        words.write_text("The networks differ little.")
        command(report, "--data", "tiny", *STUDENT)
        command(submit, *STUDENT, "--data", "tiny")
    assert "unfinished" not in capsys.readouterr().err


def test_copies_are_not_taken_for_other_weights(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typst")
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    monkeypatch.setattr(submit, "PROJECT", copy)
    monkeypatch.setattr(submit, "prove_unpacked", lambda *_: ([], []))
    best = Path("weights", "tiny", "resnet18", "best.safetensors")
    with inside(copy):
        command(evaluate, "--data", "tiny", "--model", "resnet18")
        command(report, "--data", "tiny", *STUDENT)
        capsys.readouterr()
        for path in Path("weights").rglob("best.safetensors"):
            os.utime(path, (4_000_000_000,) * 2)
        command(submit, *STUDENT, "--data", "tiny")
        assert capsys.readouterr().err == ""
        shutil.copyfile(best.with_name("last.safetensors"), best)
        for again in (False, True):
            if again:  # the report is written again, but evaluate.py was not run
                command(report, "--data", "tiny", *STUDENT)
                capsys.readouterr()
            command(submit, *STUDENT, "--data", "tiny")
            assert capsys.readouterr().err.splitlines() == [
                f"warning: csv/tiny/submission_resnet18.csv was not predicted with the present {best}.",
                f"warning: report/tiny/report.pdf does not describe the present {best}; run evaluate.py and report.py again.",
            ]
        lines = ["[competitions]", *(f"{model} = {model}" for model in DEPTHS)]
        Path("names.ini").write_text("\n".join(lines))
        command(submit, "--kaggle", "--dry-run", "--data", "tiny", "--settings", "names.ini")
    warning = f"warning: csv/tiny/submission_resnet18.csv was not predicted with the present {best}.\n"
    assert capsys.readouterr().err == warning


def test_generated_data_are_marked_in_the_zips(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    write(copy / "csv" / "tiny" / "sample.json", b"{}")
    monkeypatch.setattr(submit, "PROJECT", copy)
    monkeypatch.setattr(submit, "prove_unpacked", lambda *_: ([], []))
    with inside(copy):
        command(submit, *STUDENT, "--data", "tiny")
    unpack(copy, tmp_path)
    note = "The images of data set tiny are generated (prepare.py sample), not the lab's."
    assert (tmp_path / TITLE / "csv" / "tiny" / "GENERATED.txt").read_text().strip() == note
    assert (tmp_path / TITLE / "csv" / "tiny" / "sample.json").is_file()
    assert f"warning: {note}" in capsys.readouterr().err
    readme = (tmp_path / TITLE / "weights" / "tiny" / "README.txt").read_text(encoding="utf-8")
    assert readme.startswith(f"The trained weights of {TITLE}, data set tiny of generated images.\n")


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["劉子齊", "Liu Tzu-Chi", "O'Neill", "José", "ʻOkina", "김철수", "Müller (2)"])
def test_names_are_normalised_to_the_composed_form(name: str) -> None:
    composed = unicodedata.normalize("NFC", name)
    decomposed = unicodedata.normalize("NFD", name)
    assert zips.hand_in_name("311605004", f" {decomposed} ") == f"DLP_LAB3_311605004_{composed}"


INVALID = ["", "  ", "a/b", "a\\b", "..", "a:b", "a*", "what?", 'a"b', "<a>", "a|b", "a\nb", "a\0b", "a\u200bb", "a."]
INVALID += ["a\u202eb", "\ud800", "a\u2028b", "劉" * 80]


@pytest.mark.parametrize("name", INVALID)
def test_names_that_some_system_does_not_allow_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--name") as caught:
        zips.hand_in_name("311605004", name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("number", ["", "3116 05004", "311605004/..", "３１１６０５００４", "12", "-"])
def test_invalid_student_ids_are_refused(number: str) -> None:
    with pytest.raises(UserError, match=r"--student-id .* is no student ID"):
        zips.hand_in_name(number, "劉子齊")


@settings(max_examples=40)
@given(st.text(max_size=40))
@example("\u1100\u1161")
def test_any_name_is_refused_or_allowed_on_every_system(name: str) -> None:
    try:
        title = zips.hand_in_name("311605004", name)
    except UserError as error:
        assert str(error).isprintable()
        return
    assert unicodedata.is_normalized("NFC", title) and len(zips.zip_names(title)[1].encode()) <= 255
    assert title.isprintable() and not set(title) & set('<>:"/\\|?*') and title == title.strip().rstrip(".")


def test_without_a_name() -> None:
    with pytest.raises(UserError, match="give --student-id and --name"):
        command(submit, "--name", "劉子齊")


def test_weights_of_a_data_set_of_the_same_name_are_a_problem(project: Path, tmp_path: Path) -> None:
    lists = made.make_data(tmp_path / "tiny")
    text = (lists / "valid.csv").read_text()
    (lists / "valid.csv").write_text(text.replace(",0", ",2").replace(",1", ",0").replace(",2", ",1"))
    with inside(project):
        weights = Path("weights", "tiny")
        submissions, [problem] = submit.checked_submissions(read_data_set(lists), weights, ["resnet18"], [])
        assert not submissions and "best.safetensors: trained on other lists than those in" in problem
        assert submit.checked_submissions(read_data_set("tiny"), weights, ["resnet18"], [])[1] == []
