"""The report: its numbers compared with the runs' files, gaps for what is missing, and any text in names and classes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import string
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pypdf
import pytest
from PIL import Image

import evaluate
import lab.report.discussion
import lab.report.results
import lab.report.sections
import lab.report.texts
import report
from lab.checkpoints.checkpoint import read_about
from lab.checkpoints.origin import read_origin
from lab.errors import UserError
from lab.evaluation.metrics import mcnemar
from lab.handin.zips import report_keywords
from lab.report.ablations import ablations
from lab.report.discussion import compared, errors, fitting, temperatures
from lab.report.networks import layers
from lab.report.runs import Run
from lab.report.texts import LANGUAGES, Texts
from lab.report.typesetting import TEMPLATES, page
from tests.made import DEPTHS, TRAIN, VALID, Capture, Patch, about, command, inside, make_data, thin, write_systems

NAME = "劉子齊"
BEST50 = "weights/tiny/resnet50/best.safetensors"


def plain(html: str) -> str:
    """The text of HTML on one line, without tags."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


class Page:
    """An HTML page: its text, and its tables as rows of cells."""

    def __init__(self, html: str) -> None:
        def elements(name: str, part: str) -> list[str]:
            return re.findall(rf"<(?:{name})[ >].*?</(?:{name})>", part, flags=re.DOTALL)

        self.text = plain(html.partition("<body>")[2])
        self.tables = [
            [[plain(cell) for cell in elements("th|td", row)] for row in elements("tr", table)]
            for table in elements("table", html)
        ]

    def table(self, *head: str) -> dict[str, list[str]]:
        """The rows, by their first cell, of the table whose head starts with these cells."""
        (table,) = [table for table in self.tables if table[0][: len(head)] == list(head)]
        return {row[0]: row[1:] for row in table[1:]}


def pdf_text(path: Path) -> str:
    """The text of a PDF on one line."""
    return " ".join(" ".join(page.extract_text() for page in pypdf.PdfReader(path).pages).split())


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report folder after training and evaluation of three models on ``tiny``, not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(trained / "report" / "tiny", folder / "report" / "tiny")
    for name in ("preprocessing", "augmentation"):  # the fixture ``trained`` draws no figures
        Image.new("RGB", (1, 1)).save(folder / "report" / "tiny" / f"{name}.png")
    with inside(folder):
        lists, weights = trained / "csv" / "tiny", trained / "weights"
        command(evaluate, "--data", lists, "--weights", weights, "--device", "cpu", "--precision", "fp32")
    return folder


@pytest.fixture
def work(tmp_path: Path, evaluated: Path, trained: Path) -> Iterator[Path]:
    """A working directory with a copy of that report folder and the best checkpoints."""
    shutil.copytree(evaluated / "report", tmp_path / "report")
    for model in DEPTHS:
        best = Path("weights", "tiny", model, "best.safetensors")
        (tmp_path / best).parent.mkdir(parents=True)
        shutil.copy2(trained / best, tmp_path / best)
    with inside(tmp_path):
        yield tmp_path


@pytest.fixture
def folder(work: Path) -> Path:
    """The report folder of the working directory."""
    return work / "report" / "tiny"


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: Patch) -> None:
    """Replace figures by one pixel, which saves time, except in tests with ``that_draws`` in their name."""
    if "that_draws" not in request.node.name:
        buffer = io.BytesIO()
        Image.new("RGB", (1, 1)).save(buffer, "PNG")
        for module in (lab.report.sections, lab.report.results, lab.report.discussion):
            monkeypatch.setattr(module, "png", lambda _figure: buffer.getvalue())
            names = ["accuracy_figure", "comparison_figure", "confusions_figure", "roc_figure", "reliability_figure"]
            for name in (*names, "block_figure"):
                monkeypatch.setattr(module, name, lambda *_: None, raising=False)


Write = Callable[..., tuple[Page, list[str]]]


@pytest.fixture
def write(folder: Path, trained: Path, capsys: Capture) -> Write:
    """Runs report.py and returns the page and the warnings."""

    def run(*options: str | Path, data: Path | str = trained / "csv" / "tiny") -> tuple[Page, list[str]]:
        command(report, "--data", data, *options)
        lines = capsys.readouterr().err.splitlines()
        assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
        warnings = [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]
        return Page((folder / "report.html").read_text(encoding="utf-8")), warnings

    return run


# --------------------------------------------------------------------------------------------------- the whole report


def test_other_systems_are_compared_where_there_is_a_table(write: Write, folder: Path) -> None:
    assert "Comparison with other systems" not in write()[0].text
    write_systems(folder / "compare.csv")
    html, warnings = write()
    assert "Comparison with other systems" in html.text
    rows = html.table("system", "px", "accuracy", "95 % interval")
    assert rows["ResNet18"] == ["64", "97.50 %", "96.00–98.50", "97.00 %", "11.20", "200", "300", "–"]
    assert rows["HOG and <b>logistic</b> regression"][-3:] == ["–", "–", "1e-09"]
    # None of the three depths has the accuracy of its evaluation there.
    assert sum("studies.compare --data tiny again" in warning for warning in warnings) == 3


def test_every_number_is_that_in_the_runs_files(write: Write, work: Path, folder: Path) -> None:
    (folder / "discussion.txt").write_text("Mine: a < b & #c.\nStill mine.\n\nThe second.", encoding="utf-8")
    html, warnings = write("--student-id", "311605004", "--name", NAME)
    assert [text for text in warnings if "where the images come from" not in text.lower()] == []

    best, tables = {}, {}
    metrics = pd.read_csv(folder / "metrics.csv").set_index(["model", "class", "metric"])["value"]
    for model in DEPTHS:
        title = model.replace("resnet", "ResNet")
        history = pd.read_csv(folder / f"history_{model}.csv")
        row = history.sort_values(["valid_accuracy", "valid_loss"], ascending=[False, True], kind="stable").iloc[0]
        best[title] = f"{100 * row['valid_accuracy']:.2f} %"
        saved = read_about(work / "weights" / "tiny" / model / "best.safetensors").metrics
        accuracies = [f"{100 * saved[key]:.2f} %" for key in ("valid_accuracy", "valid_accuracy_d4")]
        assert f"{best[title]} {title} {accuracies[1]} with D4" in html.text  # below the title

        table = tables[model] = pd.read_csv(folder / f"valid_{model}.csv")
        overall = html.table("model", "accuracy", "95 % interval")[title]
        names = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss")
        values = [float(overall[column].removesuffix(" %")) for column in (0, 3, 4, 5, 6)]
        assert overall[2] == f"with{'' if read_origin(folder / f'valid_{model}.csv')['d4'] else 'out'} D4"
        scale = np.array([100, 100, 100, 1, 1])
        np.testing.assert_allclose(values, [metrics[model, "overall", name] for name in names] * scale, atol=0.0051)

        size = html.table("model", "parameters", "per training image")[title]
        count = sum(parameter.numel() for parameter in thin(model).parameters())
        last = history.iloc[-1]
        gap = 100 * (last["train_accuracy"] - last["valid_accuracy"])
        assert size[:2] == [f"{count:,}", f"{count / TRAIN:,.0f}"] and size[-1] == f"{gap:+.2f}"
        time = html.table("model", "epochs", "training sizes, px")[title]
        assert time[:2] == [str(len(history)), str(int(history["size"].max()))]
        confidence = table[["probability_0", "probability_1"]].max(axis=1).mean()
        assert f"{title} has a mean confidence of {100 * confidence:.2f} %" in html.text
        assert accuracies[0] == best[title]
        assert html.table("model", "input, px")[title][:5] == ["32", f"{row['epoch']:.0f}", "3", *accuracies]
    first, second, _ = tables.values()
    b, c, _ = mcnemar(*(column.to_numpy() for column in (first["label"], first["prediction"], second["prediction"])))
    assert html.table("models", "only the first correct")["ResNet18 and ResNet50"][:2] == [str(b), str(c)]
    assert html.table("class", "training (train.csv)")["all"] == [str(TRAIN), str(VALID)]
    assert html.table("setting")["epochs"] == ["3", "3", "3"]

    text = pdf_text(folder / "report.pdf")
    for part in (*best.values(), NAME, "311605004", "Mine: a < b & #c. Still mine."):
        assert part in text and part in html.text
    assert "This space is for the student" not in html.text + text
    information = pypdf.PdfReader(folder / "report.pdf").metadata
    assert information is not None and information.author == NAME


def test_sections_have_the_labs_order_and_figures_are_numbered(write: Write, folder: Path) -> None:
    html, _ = write()
    text = pdf_text(folder / "report.pdf")
    order = ["Introduction", "Implementation", "Data preprocessing", "Experimental results", "Discussion", "References"]
    for number, title in enumerate(order, 1):
        assert f"{number} {title}" in text
    assert sorted(order, key=html.text.index) == order
    for kind in ("Figure", "Table"):
        numbers = [[int(n) for n in re.findall(rf"{kind} (\d+) ?\. ", source)] for source in (html.text, text)]
        assert numbers[0] == list(range(1, len(numbers[0]) + 1)) and len(numbers[0]) > 5
        assert numbers[1] == numbers[0]  # Typst numbers by itself


def test_a_report_that_draws_has_the_same_bytes_again_and_refers_to_no_other_file(write: Write, folder: Path) -> None:
    reports = []
    for _ in range(2):
        write("--name", NAME)
        reports.append([(folder / f"report.{kind}").read_bytes() for kind in ("pdf", "html")])
    assert reports[0] == reports[1]
    text = reports[0][1].decode()
    assert (
        re.findall(r'url\((?!data:)|@import|<script|<link|<[^>]* (src|href|srcset|data|action)="(?!data:|#)', text)
        == []
    )
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert 'format("woff")' in text  # the characters of the name


def test_the_date_is_that_of_the_newest_history(write: Write, folder: Path) -> None:
    for number, path in enumerate(sorted(folder.glob("history_*.csv"))):
        os.utime(path, (1_700_000_000 + 86_400 * number,) * 2)
    assert "2023-11-16" in write()[0].text
    assert "2025-02-28" in write("--date", "2025-02-28")[0].text


def test_any_text_is_shown_unchanged(write: Write, folder: Path, trained: Path, tmp_path: Path) -> None:
    lists = tmp_path / "tiny"
    shutil.copytree(trained / "csv" / "tiny", lists)
    odd = ['<b>&amp; #panic("x") \\ "q"', "$a_b*c@d`e~f//g [h] 細胞"]
    pd.DataFrame({"label": [0, 1], "name": odd}).to_csv(lists / "classes.csv", index=False)
    name = '=A; #panic("y") // */ <i>'
    for path in [*folder.parents[1].rglob("best.safetensors"), *folder.glob("run_*.json")]:
        path.unlink()  # trained on classes of other names, which is refused
    html, _ = write("--name", name, data=lists)
    text = pdf_text(folder / "report.pdf").replace(" ", "")
    assert all(part in html.text and part.replace(" ", "") in text for part in (*odd, name))


def test_the_report_says_what_the_lab_asks_for_and_only_of_this_data(write: Write, folder: Path, trained: Path) -> None:
    html, _ = write()
    source = (folder / "report.html").read_text(encoding="utf-8")
    for code in ("class BasicBlock(", "def stage(", "def resnet152(", "def confusion(", "def row_shares("):
        assert code in html.text
    for model in DEPTHS:  # 4A shows what the terminal showed
        last = (folder / f"log_{model}.txt").read_text(encoding="utf-8").splitlines()[-1]
        assert last.startswith(f"{model}: best valid accuracy") and last in unescape(source)
    assert "trains the network with and without each of them" in html.text and not any(
        "--lr" in row for row in html.tables
    )
    assert "were not trained alike" in html.text and "progressive resizing no / yes / yes" in html.text
    assert html.text.count("Not for diagnosis") == 1
    places = re.findall(r'<a href="#(\w+)">', source)
    assert len(places) > 20 and all(source.count(f'id="{place}"') == 1 for place in places)
    (folder / "log_resnet18.txt").unlink()
    assert "log_resnet18.txt: the terminal’s output was not kept" in write()[0].text


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("sample.json", "{}", "generated cells, drawn by prepare.py sample"),
        ("source.txt", "From the *ward* `A`.\n", "The data. From the *ward* `A`."),
    ],
)
def test_the_report_says_where_the_images_come_from(
    write: Write, trained: Path, tmp_path: Path, file: str, content: str, expected: str
) -> None:
    shutil.copytree(trained / "csv" / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / file).write_text(content)
    assert expected in write(data=tmp_path / "tiny")[0].text


def evaluated_runs(*correct: list[int]) -> Any:
    """Material with an evaluation of 40 images for each depth, ``correct`` of which are classified correctly."""
    runs = {}
    for model, right in zip(DEPTHS, correct, strict=False):
        probabilities = np.full((40, 2), 0.1) + 0.8 * np.eye(2)[[0 if i in right else 1 for i in range(40)]]
        runs[model] = Run(model, ids=[], labels=np.zeros(40, int), probabilities=probabilities)
    return SimpleNamespace(t=Texts("en"), runs=runs, evaluated=runs, classes=["a", "b"])


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([[*range(30)], [*range(30)]], "are correct on the same images"),
        (
            [[*range(30)], [*range(28)]],
            "2 images and loses on 0 (p = 0.5): two equally good models would differ as much in 50 %",
        ),
        ([[*range(30)], [*range(24)]], "remains below 5 %"),  # p = 0.031, one pair
        ([[*range(30)], [*range(24)], [*range(30)]], "no longer below 5 %: this is a hint"),  # three pairs
    ],
)
def test_mcnemars_p_is_interpreted(correct: list[list[int]], expected: str) -> None:
    material = evaluated_runs(*correct)
    sentences = compared(material, {model: run.result for model, run in material.runs.items()})
    assert any(expected in sentence for sentence in sentences)
    assert "evaluation is 75.00 %, 30 of 40 images (95 % interval 59.81–85.81 %), by ResNet18" in sentences[0]
    assert any("the interval is 26 points wide" in sentence for sentence in sentences)


def test_the_errors_are_located() -> None:
    material = evaluated_runs([*range(30)], [*range(28)])
    text = " ".join(errors(material, {model: run.result for model, run in material.runs.items()}))
    assert "Errors on the 40 images: ResNet18 10 and ResNet50 12." in text
    assert "misclassifies 12 images, and both models misclassify 10 of them" in text
    assert "a predicted as b: 22 of all 22 errors, 100 %" in text and "is a, 72.5 % of its 40 images" in text
    for correct, every in (
        ([[*range(20)], [*range(20, 40)]], "both models"),
        ([[0], [1], [*range(2, 40)]], "all 3 models"),
    ):
        apart = evaluated_runs(*correct)
        sentences = errors(apart, {model: run.result for model, run in apart.runs.items()})
        assert f"40 images, but no image is misclassified by {every}." in sentences[1]


def test_the_confidences_are_explained_by_their_temperatures() -> None:
    material = evaluated_runs([*range(30)], [*range(28)])
    assert temperatures(material) == []  # nothing says whether one was fitted
    for run in material.runs.values():
        run.metrics = {"temperature": 1.0, "calibration_error_raw": 0.05}
    assert "No temperature was fitted" in temperatures(material)[0]
    run = material.runs["resnet50"]
    run.metrics = {"temperature": 0.7, "calibration_error_raw": 0.081}
    assert "Without it the ECE would be 8.1 % (ResNet50, temperature 0.70)" in temperatures(material)[0]
    # The checkpoint knows better, unless the evaluation is of other weights.
    run.about, run.d4 = about("resnet50", confidence={"temperature": 0.9, "temperature_d4": 0.8}), True
    assert temperatures(material) == []
    run.metrics["temperature"] = 0.8
    assert "8.1 % (ResNet50, temperature 0.80)" in temperatures(material)[0]
    run.missing["fresh"], run.metrics["temperature"] = "other weights", 1.0
    assert "No temperature was fitted" in temperatures(material)[0]


def test_the_metrics_of_a_model_that_was_evaluated_alone_are_read(write: Write, folder: Path) -> None:
    html, _ = write()
    assert "Without it the ECE would be" in html.text
    table = pd.read_csv(folder / "metrics.csv")
    for model in DEPTHS:
        table[table["model"] == model].to_csv(folder / f"metrics_{model}.csv", index=False)
    (folder / "metrics.csv").unlink()
    assert write()[0].text == html.text


def test_the_gap_between_training_and_testing_is_interpreted() -> None:
    material = evaluated_runs()
    for model, train, valid in zip(DEPTHS, (0.99, 0.80, 0.905), (0.90, 0.85, 0.90), strict=True):
        rows = {"epoch": [1, 2], "train_accuracy": [0.5, train], "valid_accuracy": [0.95, valid]}
        material.runs[model] = Run(model, history=pd.DataFrame(rows))
    text = " ".join(fitting(material))
    assert "ResNet18 is 9.0 points more accurate on the training images" in text
    assert "training accuracy of ResNet50 is not above" in text and "For ResNet152, training accuracy exceeds" in text
    assert "ResNet50 has a training accuracy 19.0 points below that of ResNet18 after the same training" in text


# --------------------------------------------------------------------------------------------------------------- gaps


def test_without_any_file_it_is_a_report_of_gaps(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "report" / "none").mkdir(parents=True)
    with inside(tmp_path):
        command(report, "--data", "none")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines))
    text = pdf_text(tmp_path / "report" / "none" / "report.pdf")
    for model in DEPTHS:
        gap = f"history_{model}.csv is missing; python train.py --data none --model {model} writes it."
        assert f"warning: {gap}" in lines and gap in text
    assert {"warning: no --name was given.", "warning: no --student-id was given."} <= set(lines)
    assert any("the discussion is empty" in line for line in lines)


def test_a_missing_model_is_a_gap_and_the_others_are_shown(write: Write, work: Path, folder: Path) -> None:
    for path in (*folder.glob("*resnet50*"), work / "weights/tiny/resnet50/best.safetensors"):
        path.unlink()
    html, warnings = write()
    assert sum("resnet50" in text for text in warnings) == 1
    overall = html.table("model", "accuracy", "95 % interval")
    assert overall["ResNet50"] == ["missing"] * 7 and "missing" not in overall["ResNet18"]
    assert list(html.table("models", "only the first correct")) == ["ResNet18 and ResNet152"]
    assert "missing history_resnet50.csv is missing; python train.py" in html.text


def test_missing_copied_and_inconsistent_evaluations(write: Write, work: Path, folder: Path, trained: Path) -> None:
    (folder / "valid_resnet18.csv").unlink()
    for model in DEPTHS:  # as if they were copied after the evaluation
        os.utime(work / f"weights/tiny/{model}/best.safetensors", (4_000_000_000,) * 2)
    shutil.copyfile(trained / BEST50.replace("best", "last"), BEST50)
    table = pd.read_csv(folder / "metrics.csv")
    table.loc[(table["model"] == "resnet152") & (table["metric"] == "accuracy"), "value"] -= 0.4
    table.to_csv(folder / "metrics.csv", index=False)
    _, warnings = write("--root", trained / "csv" / "tiny")
    line = f"python evaluate.py --data {trained / 'csv' / 'tiny'} --root {trained / 'csv' / 'tiny'}"
    assert f"valid_resnet18.csv is missing; {line} writes it." in warnings
    assert f"valid_resnet50.csv was not predicted with the present {BEST50}; run {line} again." in warnings
    assert f"metrics.csv and valid_resnet152.csv are of different evaluations; run {line} again." in warnings
    assert sum("resnet" in text for text in warnings) == 3


def test_missing_figures_are_drawn_from_the_images(write: Write, folder: Path) -> None:
    (folder / "preprocessing.png").unlink()
    _, warnings = write()
    assert not any("preprocessing.png" in text for text in warnings)
    with Image.open(folder / "preprocessing.png") as image:
        assert image.width > 500


def test_without_weights_the_settings_come_from_run_json(write: Write, work: Path, folder: Path) -> None:
    shutil.rmtree(work / "weights")
    html, warnings = write()
    assert html.table("setting")["epochs"] == ["3", "3", "3"]
    assert sum("best.safetensors is missing" in text for text in warnings) == 3
    assert html.table("model", "input, px")["ResNet18"][4:] == ["not recorded", "–"]
    (folder / "run_resnet18.json").write_text(json.dumps({"model": "resnet18"}))
    with pytest.raises(UserError, match=r"run_resnet18\.json: is not what train\.py writes"):
        write()


# ------------------------------------------------------------------------------------------------------ invalid input


def test_a_data_set_of_the_same_name_is_refused(write: Write, work: Path) -> None:
    """By the checkpoint, without it by run_<model>.json, and without that by the predictions."""
    data = make_data(work / "elsewhere" / "tiny")
    valid = pd.read_csv(data / "valid.csv")
    valid[::-1].to_csv(data / "valid.csv", index=False)
    for file in ("best.safetensors", "run_resnet*.json"):
        expected = file.replace("*", r"\d+")
        with pytest.raises(UserError, match=rf"{expected}: trained on other lists than those in .*elsewhere/tiny"):
            write(data=data)
        for path in work.rglob(file):
            path.unlink()
    with pytest.raises(UserError, match=r"valid_resnet18\.csv: is of another list than .*elsewhere/tiny/valid\.csv"):
        write(data=data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("history_resnet18.csv", b"a,b\n1,2\n", r"history_resnet18\.csv: not a history"),
        ("valid_resnet18.csv", b"ID,label\n./1.bmp,0\n", r"valid_resnet18\.csv: is not what evaluate\.py writes"),
        ("valid_resnet18.csv", b"ID,label,probability_0,probability_1\na,0,nan,nan\n", "are not numbers"),
        ("valid_resnet18.csv", b"ID,label,probability_0,probability_1\na,0,0.5,0.5\n", "another valid list"),
        ("metrics.csv", b"a\n1\n", r"metrics\.csv: is not what evaluate\.py writes"),
        ("compare.csv", b"system,title\na,b\n", r"compare\.csv: is not what studies\.compare writes"),
        ("discussion.txt", b"\xff\xfe", r"discussion\.txt line 1: cannot be read"),
    ],
)
def test_a_damaged_file_is_named(write: Write, folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        write()
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--name", "a\nb"), ("--name", "x" * 81), ("--student-id", "\x1b[2J"), ("--date", "31.1.2026")],
)
def test_a_name_an_id_or_a_date_that_cannot_be_printed_is_refused(option: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "report" / "none").mkdir(parents=True)
    with inside(tmp_path), pytest.raises(UserError, match=f"{option}.*expected"):
        command(report, "--data", "none", option, value)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    (tmp_path / "report" / "none").mkdir(parents=True)
    with inside(tmp_path), pytest.raises(UserError, match=r"needs the package typst: pip install typst"):
        command(report, "--data", "none")


def test_a_character_without_a_font_is_noted(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "report" / "none").mkdir(parents=True)
    with inside(tmp_path):
        command(report, "--data", "none", "--name", "刘子齊")
    assert "font lacks 刘;" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    ("model", "parameters", "gmac", "blocks"),
    [
        ("resnet18", 11_689_512, 1.814, [2, 2, 2, 2]),
        ("resnet50", 25_557_032, 4.089, [3, 4, 6, 3]),
        ("resnet152", 60_192_808, 11.514, [3, 8, 36, 3]),
    ],
)
def test_the_layers_are_those_of_the_paper(model: str, parameters: int, gmac: float, blocks: list[int]) -> None:
    """Table 1 of He et al. 2015; parameters and multiply-accumulates as usually counted, for 224 px and 1000 classes."""
    table = layers(model, 1000, 224)
    stages = ["layer1", "layer2", "layer3", "layer4"]
    assert [layer.name for layer in table] == ["conv1", "maxpool", *stages, "avgpool", "fc"]
    assert [layer.output[-1] for layer in table[:6]] == [112, 56, 56, 28, 14, 7]
    assert sum(layer.parameters for layer in table) == parameters
    assert round(sum(layer.macs for layer in table) / 1e9, 3) == gmac
    for layer, width, count in zip(table[2:6], [64, 128, 256, 512], blocks, strict=True):
        basic, bottleneck = [f"3×3, {width}"] * 2, [f"1×1, {width}", f"3×3, {width}", f"1×1, {4 * width}"]
        *lines, repeated = layer.operation.split("\n")
        assert (
            lines == (basic if model == "resnet18" else bottleneck)
            and repeated == f"× {count}"
            and layer.blocks == count
        )


# ------------------------------------------------------------------------------------------------------------- the facts


def test_models_without_errors_leave_no_empty_table(write: Write, folder: Path) -> None:
    (folder / "metrics.csv").unlink()
    for model in DEPTHS:
        table = pd.read_csv(folder / f"valid_{model}.csv")
        table["probability_0"], table["probability_1"] = (table["label"] == 0) * 1.0, (table["label"] == 1) * 1.0
        table.to_csv(folder / f"valid_{model}.csv", index=False)
    html, _ = write()
    assert "No class is confused with another." in html.text
    assert "No model misclassifies any image of valid.csv." in html.text
    assert all(len(table) > 1 for table in html.tables)
    assert "ResNet50 has a mean confidence of 100.00 % and an accuracy of 100.00 %, which agree" in html.text


def test_ablations_are_paired_by_seed(tmp_path: Path) -> None:
    path = tmp_path / "ablations.csv"
    rows = [("", 0, 0.90), ("", 1, 0.80), ("--progressive", 0, 0.92), ("--progressive", 2, 0.99), ("--lr 0.1", 1, 0.75)]
    table = pd.DataFrame(rows, columns=["options", "seed", "last"])
    table.assign(data="pbc8", model="resnet18", size=48, epochs=10, also="").to_csv(path, index=False)
    run = ["ResNet18", "48", "10"]
    assert ablations(path, "pbc8", images=True) == [
        [*run, "--progressive", "1", "92.00", "+2.00"]
    ]  # seed 2 has no base
    assert ablations(path, "pbc8", images=False) == [[*run, "--lr 0.1", "1", "75.00", "-5.00"]]
    assert ablations(path, "lab3", images=False) == []  # those of other data say nothing about these
    assert ablations(tmp_path / "none.csv", "pbc8", True) == []


def test_the_template_has_no_undefined_names() -> None:
    with pytest.raises(Exception, match="undefined"):
        page(False, {})


# ----------------------------------------------------------------------------------------------------------- languages


def names_in(text: str) -> set[str | None]:
    """The names in braces of a text."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_languages_have_the_same_texts_with_the_same_names() -> None:
    english, chinese = (Texts(language).table for language in LANGUAGES)
    assert list(english) == list(chinese)
    for key, text in english.items():
        other = chinese[key]
        if isinstance(text, list):
            assert len(text) == len(other), key
        else:
            assert names_in(text) == names_in(other), key
            marks = [text.count(mark) for mark in ("`", "**")]
            assert marks == [other.count(mark) for mark in ("`", "**")], key
            assert not re.search("[\u3000-\uffef] [\u3000-\uffef]|\n[\u3000-\uffef]", other), (
                key
            )  # a space or break between


def test_every_text_is_used() -> None:
    folder = Path(lab.report.texts.__file__).parent
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in [*folder.glob("*.py"), *TEMPLATES.glob("*.j2"), Path(report.__file__)]
    )
    begun = ("gap_", "listing_", "set_", "centre_", "special_", "pair_", "preprocessing", "augmentation")
    assert [key for key in Texts("en").table if f'"{key}"' not in code and not key.startswith(begun)] == []


def test_numbers_plurals_and_marks_of_a_text(monkeypatch: Patch) -> None:
    t = Texts("en")
    monkeypatch.setattr(t, "table", {"n": "{n:image|images}, **{name}** `a b`", "and": " and ", "comma": ", "})
    assert t("n", n=1, name="x") == "1 image, **x** `a b`" and t("n", n=1200, name="").startswith("1,200 images")
    # A value is no markup.
    assert t.rich("n", n=2, name="*`") == [("plain", "2 images, "), ("strong", "*`"), ("plain", " "), ("code", "a b")]
    assert [t.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_the_report_in_chinese(write: Write, folder: Path) -> None:
    html, warnings = write("--language", "zh", "--name", NAME)
    text = pdf_text(folder / "report.pdf").replace(" ", "")
    for part in ("殘差網路", "混淆矩陣", "資料前處理", "訓練條件並不相同", "不得用於診斷", "未給定學號"):
        assert part in html.text + "".join(warnings)
        assert part in text or part == "未給定學號"
    assert html.table("模型", "輸入（px）")["ResNet18"][2] == "3"
    assert 'lang="zh-Hant-TW"' in (folder / "report.html").read_text(encoding="utf-8")
    assert "missing discussion" in report_keywords(folder / "report.pdf")  # what submit.py reads
