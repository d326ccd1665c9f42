"""The report: its numbers are those of the runs' files, what is missing is marked and said, and any text comes through."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pypdf
import pytest
from PIL import Image

import evaluate
import lab.report.discussion
import lab.report.results
import report
from lab.checkpoints.checkpoint import read_about
from lab.errors import UserError
from lab.evaluation.metrics import mcnemar
from lab.report.ablations import ablations
from lab.report.networks import layers
from lab.report.typesetting import TEMPLATES, page
from tests.made import DEPTHS, TRAIN, VALID, command, inside, thin

NAME = "劉子齊"
ANSWERS = [("resnet18", "label"), ("resnet18", "prediction"), ("resnet50", "prediction")]


class Page(HTMLParser):
    """The text of a page, its tables as rows of cells, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.inside_style = self.inside_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "action")
        ]
        self.inside_style, self.inside_cell = tag == "style", self.inside_cell or tag in ("td", "th")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside_style, self.inside_cell = False, self.inside_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside_style:
            return
        self.words.append(data)
        if self.inside_cell:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, *head: str) -> dict[str, list[str]]:
        """The rows of the table whose head begins so, by their first cell."""
        found = [table for table in self.tables if table[0][: len(head)] == list(head)]
        assert len(found) == 1, [table[0] for table in self.tables]
        return {row[0]: row[1:] for row in found[0][1:]}


def pdf_text(path: Path) -> str:
    """The text of a PDF, its lines joined."""
    pages = [page.extract_text() for page in pypdf.PdfReader(path).pages]
    return " ".join(" ".join(pages).split())


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report folder as three depths' training and evaluation on ``tiny`` leave it; nobody writes into it."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(trained / "report" / "tiny", folder / "report" / "tiny")
    for name in ("preprocessing", "augmentation"):  # made.trained draws no figures
        Image.new("RGB", (1, 1)).save(folder / "report" / "tiny" / f"{name}.png")
    with inside(folder):
        lists, weights = trained / "csv" / "tiny", trained / "weights"
        command(evaluate, "--data", lists, "--weights", weights, "--device", "cpu", "--precision", "fp32")
    return folder


@pytest.fixture
def work(tmp_path: Path, evaluated: Path, trained: Path) -> Iterator[Path]:
    """A working directory of its own with that report folder and the weights' best checkpoints."""
    shutil.copytree(evaluated / "report", tmp_path / "report")
    for model in DEPTHS:
        place = Path("weights", "tiny", model, "best.safetensors")
        (tmp_path / place).parent.mkdir(parents=True)
        shutil.copy2(trained / place, tmp_path / place)
    with inside(tmp_path):
        yield tmp_path


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of one pixel, which take no time; but for a test that draws them, by its name."""
    if "that_draws" not in request.node.name:
        buffer = io.BytesIO()
        Image.new("RGB", (1, 1)).save(buffer, "PNG")
        for module in (lab.report.results, lab.report.discussion):
            monkeypatch.setattr(module, "png", lambda _figure: buffer.getvalue())
            for name in ("accuracy_figure", "confusion_figure", "roc_figure", "reliability_figure"):
                monkeypatch.setattr(module, name, lambda *_: None, raising=False)


@pytest.fixture
def write(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Page, list[str]]]:
    """Runs report.py; gives the page and the warnings."""

    def run(*options: str | Path, data: Path | str = trained / "csv" / "tiny") -> tuple[Page, list[str]]:
        command(report, "--data", data, *options)
        said = capsys.readouterr().err.splitlines()
        assert (work / "report" / "tiny" / "report.pdf").read_bytes().startswith(b"%PDF")
        warnings = [line.removeprefix("warning: ") for line in said if line.startswith("warning: ")]
        return Page((work / "report" / "tiny" / "report.html").read_text(encoding="utf-8")), warnings

    return run


Write = Callable[..., tuple[Page, list[str]]]


# --------------------------------------------------------------------------------------------------- the whole report


def test_every_number_is_that_of_the_runs_files(write: Write, work: Path, trained: Path) -> None:
    folder = work / "report" / "tiny"
    (folder / "discussion.txt").write_text("Mine: a < b & #c.\nStill mine.\n\nThe second.", encoding="utf-8")
    found, warnings = write("--student-id", "311605004", "--name", NAME)
    assert [text for text in warnings if "ablation" not in text] == []

    best = {}
    for model in DEPTHS:
        title = model.replace("resnet", "ResNet")
        history = pd.read_csv(folder / f"history_{model}.csv")
        row = history.sort_values(["valid_accuracy", "valid_loss"], ascending=[False, True], kind="stable").iloc[0]
        best[title] = f"{100 * row['valid_accuracy']:.2f} %"
        assert f"{best[title]} {title}" in found.text  # the key figures under the title

        valid = pd.read_csv(folder / f"valid_{model}.csv")
        labels, given_ = valid["label"].to_numpy(), valid[["probability_0", "probability_1"]].to_numpy()
        metrics = pd.read_csv(folder / "metrics.csv").set_index(["model", "class", "metric"])["value"]
        overall = found.table("depth", "accuracy", "95 % interval")[title]
        kinds = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss")
        shown = [float(overall[column].removesuffix(" %")) for column in (0, 2, 3, 4, 5)]
        scale = np.array([100, 100, 100, 1, 1])
        np.testing.assert_allclose(shown, [metrics[model, "overall", kind] for kind in kinds] * scale, atol=0.0051)
        assert f"{(given_.argmax(1) == labels).sum()} of {VALID} images" not in found.text  # that is in the picture

        size = found.table("depth", "parameters", "per training image")[title]
        count = sum(parameter.numel() for parameter in thin(model).parameters())
        last = history.iloc[-1]
        gap = 100 * (last["train_accuracy"] - last["valid_accuracy"])
        assert size[:2] == [f"{count:,}", f"{count / TRAIN:,.0f}"] and size[-1] == f"{gap:+.2f}"
        time = found.table("depth", "epochs", "input, px")[title]
        assert time[0] == str(len(history)) and time[1] == str(int(history["size"].max()))
        confidence = found.table("depth", "mean confidence")[title]
        assert confidence[0] == f"{100 * given_.max(1).mean():.2f} %"
        saved = read_about(work / "weights" / "tiny" / model / "best.safetensors").metrics
        plain = found.table("depth", "plain")[title]
        assert plain[:2] == [f"{100 * saved[key]:.2f} %" for key in ("valid_accuracy", "valid_accuracy_d4")]
    every = {model: pd.read_csv(folder / f"valid_{model}.csv") for model in DEPTHS}
    labels, one, two = (every[model][column].to_numpy() for model, column in ANSWERS)
    pair = mcnemar(labels, one, two)
    row_ = found.table("depths", "only the first right")["ResNet18 and ResNet50"]
    assert row_[:2] == [str(pair[0]), str(pair[1])]
    assert found.table("class", "training (train.csv)")["all"] == [str(TRAIN), str(VALID)]
    assert found.table("setting")["epochs"] == ["3", "3", "3"]

    words = pdf_text(folder / "report.pdf")
    for text in (*best.values(), NAME, "311605004", "Mine: a < b & #c. Still mine."):
        assert text in words and text in found.text
    assert "This place is for the student" not in found.text + words
    information = pypdf.PdfReader(folder / "report.pdf").metadata
    assert information is not None and information.author == NAME


def test_the_order_is_the_labs_and_figures_are_numbered(write: Write, work: Path) -> None:
    found, _ = write()
    words = pdf_text(work / "report" / "tiny" / "report.pdf")
    order = ["Introduction", "Implementation", "Data preprocessing", "Experimental results", "Discussion", "References"]
    for number, title in enumerate(order, 1):
        assert f"{number} {title}" in words
    assert sorted(order, key=found.text.index) == order
    for kind in ("Figure", "Table"):
        numbers = [[int(n) for n in re.findall(rf"{kind} (\d+) ?\. ", text)] for text in (found.text, words)]
        assert numbers[0] == list(range(1, len(numbers[0]) + 1)) and len(numbers[0]) > 5
        assert numbers[1] == numbers[0]  # Typst counts for itself


def test_a_report_that_draws_is_the_same_bytes_again(write: Write, work: Path) -> None:
    files = [work / "report" / "tiny" / f"report.{kind}" for kind in ("pdf", "html")]
    write("--name", NAME)
    first = [path.read_bytes() for path in files]
    write("--name", NAME)
    assert [path.read_bytes() for path in files] == first


def test_the_page_needs_nothing_else(write: Write, work: Path) -> None:
    found, _ = write("--name", NAME)
    assert found.sources and all(source.startswith("data:") for source in found.sources)
    text = (work / "report" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"url\((?!data:)|@import|<script|<link", text) == []
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert 'format("woff")' in text  # the characters of the name, wherever it is opened


def test_the_day_is_that_of_the_newest_history(write: Write, work: Path) -> None:
    for number, path in enumerate(sorted((work / "report" / "tiny").glob("history_*.csv"))):
        os.utime(path, (1_700_000_000 + 86_400 * number,) * 2)
    assert "2023-11-16" in write()[0].text
    assert "2025-02-28" in write("--date", "2025-02-28")[0].text


def test_any_text_comes_through(write: Write, work: Path, trained: Path, tmp_path: Path) -> None:
    lists = tmp_path / "tiny"
    shutil.copytree(trained / "csv" / "tiny", lists)
    odd = ['<b>&amp; #panic("x") \\ "q"', "$a_b*c@d`e~f//g [h] 細胞"]
    pd.DataFrame({"label": [0, 1], "name": odd}).to_csv(lists / "classes.csv", index=False)
    found, _ = write("--name", '=A; #panic("y") // */ <i>', data=lists)
    words = pdf_text(work / "report" / "tiny" / "report.pdf")
    for text in (*odd, '=A; #panic("y") // */ <i>'):
        assert text in found.text
        assert text.replace(" ", "") in words.replace(" ", "")


# --------------------------------------------------------------------------------------------------------------- gaps


def test_nothing_there_is_a_report_of_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(tmp_path):
        command(report, "--data", "none")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(set(said))
    for model in DEPTHS:
        told = f"history_{model}.csv is missing; python train.py --data none --model {model} writes it."
        assert f"warning: {told}" in said
        assert told in pdf_text(tmp_path / "report" / "none" / "report.pdf")
    assert {"warning: no --name was given.", "warning: no --student-id was given."} <= set(said)
    assert any("discussion's own words are empty" in line for line in said)


def test_a_missing_depth_is_marked_and_the_others_are_there(write: Write, work: Path) -> None:
    for path in (work / "report" / "tiny").glob("*resnet50*"):
        path.unlink()
    (work / "weights/tiny/resnet50/best.safetensors").unlink()
    found, warnings = write()
    assert sum("resnet50" in text for text in warnings) == 1
    assert found.table("depth", "accuracy", "95 % interval")["ResNet50"] == ["missing"] * 6
    assert "missing" not in found.table("depth", "accuracy", "95 % interval")["ResNet18"]
    assert list(found.table("depths", "only the first right")) == ["ResNet18 and ResNet152"]
    assert found.text.count("Missing history_resnet50.csv is missing") >= 2


def test_missing_and_old_evaluations_name_the_command(write: Write, work: Path, trained: Path) -> None:
    folder = work / "report" / "tiny"
    (folder / "valid_resnet18.csv").unlink()
    os.utime(work / "weights/tiny/resnet50/best.safetensors", (4_000_000_000,) * 2)
    _, warnings = write("--root", trained / "csv" / "tiny")
    run = f"python evaluate.py --data {trained / 'csv' / 'tiny'} --root {trained / 'csv' / 'tiny'}"
    assert f"valid_resnet18.csv is missing; {run} writes it." in warnings
    assert f"valid_resnet50.csv is older than the weights of resnet50; run {run} again." in warnings
    assert not any("resnet152" in text for text in warnings)


def test_other_metrics_than_predictions_are_said(write: Write, work: Path) -> None:
    path = work / "report" / "tiny" / "metrics.csv"
    table = pd.read_csv(path)
    table.loc[(table["model"] == "resnet152") & (table["metric"] == "accuracy"), "value"] -= 0.4
    table.to_csv(path, index=False)
    _, warnings = write()
    assert sum("metrics.csv and valid_resnet152.csv are of different evaluations" in text for text in warnings) == 1


def test_draws_missing_figures_where_the_images_are_at_hand(write: Write, work: Path) -> None:
    (work / "report" / "tiny" / "preprocessing.png").unlink()
    _, warnings = write()
    assert not any("preprocessing.png" in text for text in warnings)
    with Image.open(work / "report" / "tiny" / "preprocessing.png") as image:
        assert image.width > 500


def test_without_weights_the_runs_own_notes_serve(write: Write, work: Path) -> None:
    shutil.rmtree(work / "weights")
    found, warnings = write()
    assert found.table("setting")["epochs"] == ["3", "3", "3"]
    assert sum("best.safetensors is missing" in text for text in warnings) == 3
    assert "no checkpoint below --weights tells its accuracy with D4 averaging" in found.text


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("history_resnet18.csv", "a,b\n1,2\n", r"history_resnet18\.csv: not a history"),
        ("valid_resnet18.csv", "ID,label\n./1.bmp,0\n", r"valid_resnet18\.csv: is not what evaluate\.py writes"),
        ("valid_resnet18.csv", "ID,label,probability_0,probability_1\na,0,nan,nan\n", "are not numbers"),
        ("valid_resnet18.csv", "ID,label,probability_0,probability_1\na,0,0.5,0.5\n", "another valid list"),
        ("metrics.csv", "a\n1\n", r"metrics\.csv: is not what evaluate\.py writes"),
        ("discussion.txt", b"\xff\xfe", r"discussion\.txt line 1: cannot be read"),
    ],
)
def test_a_damaged_file_is_named(write: Write, work: Path, name: str, content: str | bytes, words: str) -> None:
    (work / "report" / "tiny" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        write()
    assert not (work / "report" / "tiny" / "report.html").exists()


def test_a_damaged_note_of_a_run_is_named(write: Write, work: Path) -> None:
    shutil.rmtree(work / "weights")
    (work / "report" / "tiny" / "run_resnet18.json").write_text(json.dumps({"model": "resnet18"}))
    with pytest.raises(UserError, match=r"run_resnet18\.json: is not what train\.py writes"):
        write()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--name", "a\nb"), ("--name", "x" * 81), ("--student-id", "\x1b[2J"), ("--date", "31.1.2026")],
)
def test_odd_words_are_refused(option: str, value: str, tmp_path: Path) -> None:
    with inside(tmp_path), pytest.raises(UserError, match=f"{option}.*expected"):
        command(report, "--data", "none", option, value)


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with inside(tmp_path), pytest.raises(UserError, match=r"needs the package typst: pip install typst"):
        command(report, "--data", "none")


def test_a_character_without_a_font_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(tmp_path):
        command(report, "--data", "none", "--name", "刘子齊")
    assert "font lacks 刘;" in capsys.readouterr().out


def test_the_module_is_the_command_and_not_the_folder_of_reports() -> None:
    assert report.__file__ is not None and report.__file__.endswith("report.py")


# -------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    ("model", "parameters", "gmac", "blocks"),
    [
        ("resnet18", 11_689_512, 1.814, [2, 2, 2, 2]),
        ("resnet50", 25_557_032, 4.089, [3, 4, 6, 3]),
        ("resnet152", 60_192_808, 11.514, [3, 8, 36, 3]),
    ],
)
def test_the_table_of_layers_is_that_of_the_paper(model: str, parameters: int, gmac: float, blocks: list[int]) -> None:
    """Table 1 of He et al. 2015; parameters and multiplications as the field counts them, at 224 px and 1000 classes."""
    table = layers(model, 1000, 224)
    assert [layer.name for layer in table] == [
        *("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"),
    ]
    assert [layer.output[-1] for layer in table[:6]] == [112, 56, 56, 28, 14, 7]
    assert sum(layer.parameters for layer in table) == parameters
    assert round(sum(layer.macs for layer in table) / 1e9, 3) == gmac
    stages = table[2:6]
    assert [int(layer.operation.split("× ")[1].split()[0]) for layer in stages] == blocks
    widths = [64, 128, 256, 512]
    for layer, width in zip(stages, widths, strict=True):
        lines = layer.operation.split("\n")[:-1]
        basic = [f"3×3, {width}"] * 2
        assert lines == (basic if model == "resnet18" else [f"1×1, {width}", f"3×3, {width}", f"1×1, {4 * width}"])


# ------------------------------------------------------------------------------------------------------------- the facts


def test_perfect_depths_leave_no_empty_table(write: Write, work: Path) -> None:
    (work / "report" / "tiny" / "metrics.csv").unlink()
    for model in DEPTHS:
        path = work / "report" / "tiny" / f"valid_{model}.csv"
        table = pd.read_csv(path)
        table["probability_0"], table["probability_1"] = (table["label"] == 0) * 1.0, (table["label"] == 1) * 1.0
        table.to_csv(path, index=False)
    found, _ = write()
    assert (
        "No class is taken for another." in found.text and "No depth gets any image of valid.csv wrong." in found.text
    )
    assert all(len(table) > 1 for table in found.tables)
    assert found.table("depth", "mean confidence")["ResNet50"] == ["100.00 %", "100.00 %", "+0.00", "0.00"]


def test_ablations_are_paired_by_seed(tmp_path: Path) -> None:
    path = tmp_path / "ablations.csv"
    rows = [("", 0, 0.90), ("", 1, 0.80), ("--progressive", 0, 0.92), ("--progressive", 2, 0.99), ("--lr 0.1", 1, 0.75)]
    table = pd.DataFrame(rows, columns=["options", "seed", "last"]).assign(
        data="pbc8", model="resnet18", size=48, epochs=10, also=""
    )
    table.to_csv(path, index=False)
    run = "resnet18 on pbc8, 48 px, 10 epochs"
    found = ablations(path, "pbc8", images=True)
    assert found is not None and "on other data sets" not in found[0]
    assert found[1] == [[run, "--progressive", "1", "92.00", "+2.00"]]  # seed 2 has no base
    others = ablations(path, "lab3", images=False)
    assert others is not None and "on other data sets" in others[0]
    assert others[1] == [[run, "--lr 0.1", "1", "75.00", "-5.00"]]
    assert ablations(tmp_path / "none.csv", "pbc8", True) is None


def test_the_templates_prose_is_plain_in_both_forms() -> None:
    text = (TEMPLATES / "report.j2").read_text(encoding="utf-8")
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", text, flags=re.DOTALL)
    assert re.findall(r"[<>&#$*_@`~\[\]\\]|//|--|^\s*[-+=/]", prose, flags=re.MULTILINE) == []
    with pytest.raises(Exception, match="undefined"):
        page(False, {})  # a misspelled name is an error and no empty place
