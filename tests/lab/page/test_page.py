"""The page's functions: what each depth answers, which images a filter leaves, what is believed, and what is refused."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import demo
from lab.checkpoints.checkpoint import read_about, read_tensors, save_checkpoint
from lab.checkpoints.ensembles import other
from lab.data.lists import ImageList
from lab.data.store import Store
from lab.errors import UserError
from lab.evaluation.gradcam import explain
from lab.evaluation.metrics import wilson
from lab.page import answers, networks
from lab.page.answers import Exhibit, read_upload
from lab.page.figures import confusion_figure, curves_figure
from lab.page.gallery import Valid, read_kept
from lab.page.html import cards, header, notice, probability, verdict
from lab.page.layout import build
from lab.page.networks import look
from tests.made import DEPTHS, VALID, cell, command, inside, make_data, slow_probabilities
from tests.made_page import CPU, HISTORY, exhibit, random_image, save_staged, staged


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists and three networks; nobody writes into it."""
    folder = tmp_path_factory.mktemp("page")
    make_data(folder / "csv" / "tiny")
    save_staged(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def shown(made: Path) -> Iterator[Exhibit]:
    with inside(made, staged):
        yield exhibit(made)


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def texts(html: str) -> str:
    """What a reader sees of HTML: its words."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


# ------------------------------------------------------------------------------------------------------ the depths


def test_every_depth_has_its_accuracy_on_valid_with_its_interval(shown: Exhibit, made: Path) -> None:
    paths = [made / "csv" / "tiny" / "valid" / f"{index}.png" for index in range(VALID)]
    labels = np.arange(VALID) % 2
    for depth in shown.depths:
        slow = slow_probabilities(made / f"weights/tiny/{depth.model}/best.safetensors", paths, staged)
        hits = int((slow.argmax(axis=1) == labels).sum())
        assert depth.accuracy == (hits / VALID, *wilson(hits, VALID)) and depth.images == VALID
        assert depth.milliseconds > 0
        said = texts(cards([depth], "CPU"))
        assert f"{100 * hits / VALID:.2f} % right on valid" in said
        low, high = wilson(hits, VALID)
        assert f"95 % interval {100 * low:.2f}–{100 * high:.2f}" in said and "32 px" in said


def test_without_lists_the_cards_tell_what_the_checkpoints_were_saved_with(tmp_path: Path) -> None:
    metrics = {"valid_accuracy": 0.75, "valid_images": 40}
    save_staged(tmp_path / "weights", ["resnet18"], metrics=metrics)
    save_staged(tmp_path / "weights", ["resnet50"])
    shown = exhibit(tmp_path, ["resnet18", "resnet50"], lists=False, why="no lists were found.")
    assert shown.valid is None and shown.depths[0].accuracy == (0.75, *wilson(30, 40))
    one, two = (texts(cards([depth], "CPU")) for depth in shown.depths)
    assert "75.00 % right on valid" in one and "not measured on valid" in two
    said = str(build(shown).get_config_file())
    assert "There is no gallery, since no lists were found." in said
    assert "There are no confusion matrices, since no lists were found." in said


def test_an_accuracy_of_unknown_images_has_no_interval(tmp_path: Path) -> None:
    """Of a checkpoint that does not say how many images its accuracy is of."""
    save_staged(tmp_path / "weights", ["resnet18"], metrics={"valid_accuracy": 0.75})
    said = texts(cards(exhibit(tmp_path, ["resnet18"], lists=False).depths, "CPU"))
    assert "75.00 % right on valid" in said and "interval" not in said and "nan" not in said


def test_the_history_is_the_checkpoints_or_else_the_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_staged(tmp_path / "weights", ["resnet18"])
    for model in ("resnet50", "resnet152"):
        save_staged(tmp_path / "weights", [model], history=[])
    report = tmp_path / "report" / "tiny"
    report.mkdir(parents=True)
    pd.DataFrame(HISTORY[:1]).to_csv(report / "history_resnet18.csv", index=False)  # of another run under way
    pd.DataFrame(HISTORY[:2]).to_csv(report / "history_resnet50.csv", index=False)
    depths = exhibit(tmp_path, lists=False).depths
    assert [None if depth.history is None else len(depth.history) for depth in depths] == [3, 2, None]
    assert "resnet152: no curves" in capsys.readouterr().out


def test_an_average_answers_with_the_mean_of_its_members(tmp_path: Path) -> None:
    make_data(tmp_path / "csv" / "tiny")
    best = save_staged(tmp_path / "weights", ["resnet18"], members=2) / "tiny" / "resnet18" / "best.safetensors"
    tensors = {name: values * 1.5 for name, values in read_tensors(best).items()}
    save_checkpoint(other(best.parent, 2), read_about(best), tensors)
    with inside(tmp_path, staged):
        depth = exhibit(tmp_path, ["resnet18"]).depths[0]
    image = cell(np.random.default_rng(3), 1)
    Image.fromarray(image).save(tmp_path / "cell.png")
    rows = [slow_probabilities(path, [tmp_path / "cell.png"], staged)[0] for path in (best, other(best.parent, 2))]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    np.testing.assert_allclose(look(depth, image, CPU).probabilities, np.mean(rows, axis=0), rtol=1e-4)
    assert "mean of 2 seeds" in texts(cards([depth], "CPU"))


# ------------------------------------------------------------------------------------------------------ the answers


def test_an_upload_is_answered_by_every_depth(shown: Exhibit, made: Path, tmp_path: Path) -> None:
    image = cell(np.random.default_rng(5), 1)
    (tmp_path / "a cell.png").write_bytes(png(image))
    html = shown.answer(read_upload(str(tmp_path / "a cell.png")))
    panels = html.split('<article class="panel ')[1:]
    assert [panel.split('"')[0] for panel in panels] == DEPTHS and "a cell.png" in html
    for model, panel in zip(DEPTHS, panels, strict=True):
        slow = slow_probabilities(made / f"weights/tiny/{model}/best.safetensors", [tmp_path / "a cell.png"], staged)[0]
        said = texts(panel)
        for name, share in zip(shown.classes, slow, strict=True):
            assert f"{name} {probability(share)}" in said
        assert panel.count("<img") == 2 and f"speaks for {shown.classes[slow.argmax()]}" in said.replace("nothing ", "")
    assert "right" not in texts(html)  # nobody knows what an upload is


def test_where_a_stage_finds_nothing_the_one_before_it_is_asked(
    shown: Exhibit, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def cold_until_layer2(*given: Any) -> Any:
        row, places = explain(*given)
        tried.append(given[3])
        return row, places.abs() if given[3] == "layer2" else -places.abs()

    monkeypatch.setattr(networks, "explain", cold_until_layer2)
    monkeypatch.setattr(networks, "telling_stages", lambda *_: ["layer4", "layer3", "layer2"])
    found = look(shown.depths[0], random_image(4), CPU)
    assert tried == ["layer4", "layer3", "layer2"] and (found.stage, found.found) == ("layer2", True)
    asked = look(shown.depths[0], random_image(4), CPU, stage="layer3")
    assert (asked.stage, asked.found) == ("layer3", False)
    np.testing.assert_array_equal(asked.probabilities, found.probabilities)


def test_of_a_valid_image_the_truth_is_told(shown: Exhibit) -> None:
    assert shown.valid
    for index in range(4):
        said = shown.answer(index)
        label = int(shown.valid.images.labels[index])
        assert f"true class <b>{shown.classes[label]}</b>" in said
        for depth, panel in zip(shown.depths, said.split('<article class="panel ')[1:], strict=True):
            right = shown.valid.probabilities[depth.model][index].argmax() == label
            assert ("✓ right" in panel) == right and ("✗ wrong" in panel) == (not right)


def test_the_heat_map_is_of_the_class_and_stage_asked_for(shown: Exhibit) -> None:
    for label in (0, 1):
        said = texts(shown.answer(0, label, "layer2")).replace("nothing ", "")
        assert said.count(f"speaks for {shown.classes[label]}") == 3 and said.count("layer2") == 3
    assert "layer3" in shown.answer(0, 99, "") or "layer2" in shown.answer(0, 99, "")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("notes.png", b"no image at all", "notes.png: not an image that Pillow can read. Try another image"),
        ("empty.png", b"", "empty.png: the file is empty. Try"),
        ("half.png", png(random_image(0))[:900], "half.png: damaged or truncated"),
        ("<b>.png", b"", "&lt;b&gt;.png: the file is empty"),
        ("vast.png", png(np.zeros((60, 60, 3), np.uint8)), "vast.png: larger than 3,000 pixels"),
        ("heavy.bmp", b"\0" * 10_001, "heavy.bmp: larger than"),
    ],
)
def test_a_bad_upload_gets_a_sentence(
    shown: Exhibit, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, words: str
) -> None:
    monkeypatch.setattr(answers, "PIXELS", 3000)
    monkeypatch.setattr(answers, "BYTES", 10_000)
    said = shown.answer((name, data))
    assert words in said and 'role="alert"' in said and "<img" not in said and "Traceback" not in said


def test_an_image_of_the_list_that_has_gone_gets_a_sentence(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    with inside(tmp_path / "copy", staged):
        shown = exhibit(tmp_path / "copy")
        (tmp_path / "copy" / "csv" / "tiny" / "valid" / "0.png").unlink()
        said = shown.answer(0)
    assert "No such file" in said and str(tmp_path) not in said


def test_no_more_of_an_upload_is_read_than_shows_that_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BYTES", 100)
    (tmp_path / "large").write_bytes(b"\0" * 1000)
    assert len(read_upload(str(tmp_path / "large"))[1]) == 101


def test_foreign_names_are_text_and_nothing_else(shown: Exhibit) -> None:
    bad = "<script>alert(1)</script>{{value}}${1+1}"
    for html in (notice(bad), header(bad, [bad, "x"], 3)):
        assert "<script" not in html and "{" not in html and "$" not in html
    html = Exhibit(bad, [bad, "x"], shown.depths, CPU, shown.valid).answer(0)
    assert "<script" not in html and "{{" not in html and "${" not in html


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], "All three depths say normal"),
        ([[0.9, 0.1], [0.8, 0.2]], "Both depths say normal"),
        ([[0.9, 0.1]], "ResNet18 says normal"),
        ([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], "ResNet18 and ResNet152 say normal; ResNet50 says leukemia blast"),
    ],
)
def test_the_verdict_is_a_sentence(shown: Exhibit, rows: list[list[float]], words: str) -> None:
    class Said:
        def __init__(self, depth: Any, row: list[float]) -> None:
            self.depth, self.predicted = depth, int(np.argmax(row))

    given_answers: Any = [Said(depth, row) for depth, row in zip(shown.depths, rows, strict=False)]
    assert texts(verdict(given_answers, shown.classes)).replace(" ;", ";").strip() == words


@given(st.floats(0, 1))
def test_a_percentage_is_100_only_if_all_is_right(share: float) -> None:
    text = probability(share)
    assert (text == "100.0 %") == (share == 1)
    if text[0].isdigit():
        assert abs(float(text.split()[0]) - 100 * share) <= 0.0500001


# ------------------------------------------------------------------------------------------------------ valid


def made_valid(seed: int, count: int, classes: int) -> Valid:
    """A list and two depths' random answers, without images."""
    rng = np.random.default_rng(seed)
    rows = {model: rng.dirichlet(np.ones(classes), count) for model in ("resnet18", "resnet50")}
    labels = rng.integers(0, classes, count)
    names = [f"class {label}" for label in range(classes)]
    images = ImageList(Path("valid.csv"), [f"{i}.png" for i in range(count)], [Path()] * count, labels)
    return Valid(images, names, Store(np.zeros((0, 1, 1, 3), np.uint8), np.arange(count), []), rows)


@given(
    st.integers(0, 50),
    st.integers(1, 40),
    st.integers(2, 4),
    st.none() | st.integers(0, 3),
    st.sampled_from(["all", "right", "wrong", "differ"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from(["list", "least", "most"]),
)
def test_a_filter_leaves_what_it_says(
    seed: int,
    count: int,
    classes: int,
    label: int | None,
    result: str,
    low: float,
    high: float,
    pair: tuple[int, int] | None,
    order: str,
) -> None:
    valid = made_valid(seed, count, classes)
    found = valid.choose("resnet18", label, result, low, high, pair, order).tolist()
    expected = []
    for index in range(count):
        true, row = int(valid.images.labels[index]), valid.probabilities["resnet18"][index]
        says, others = int(row.argmax()), int(valid.probabilities["resnet50"][index].argmax())
        fits = {"all": True, "right": says == true, "wrong": says != true, "differ": says != others}[result]
        if fits and label in (None, true) and low <= row.max() <= high and pair in (None, (true, says)):
            expected.append(index)
    assert sorted(found) == expected
    sure = [valid.probabilities["resnet18"][index].max() for index in found]
    assert found == expected if order == "list" else sure == sorted(sure, reverse=order == "most")


@given(st.integers(0, 50), st.integers(1, 60), st.integers(2, 4))
def test_the_confused_pairs_are_all_errors_the_most_frequent_first(seed: int, count: int, classes: int) -> None:
    valid = made_valid(seed, count, classes)
    pairs = valid.confused("resnet18", most=classes * classes)
    counts = [number for _, _, number in pairs]
    assert counts == sorted(counts, reverse=True) and all(true != says for true, says, _ in pairs)
    assert sum(counts) == len(valid.choose("resnet18", result="wrong"))
    assert all(len(valid.choose("resnet18", pair=(true, says))) == number for true, says, number in pairs)


def test_the_gallery_has_pages(shown: Exhibit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PAGE", 5)
    everything = np.arange(VALID)
    seen: list[int] = []
    for number in range(3):
        html, listed, at, counts = shown.gallery(everything, number, "resnet18")
        assert at == number and html.count("<button") == len(listed)
        assert counts == f"{5 * number + 1}–{min(5 * number + 5, VALID)} of {VALID} images"
        seen += listed
    assert seen == everything.tolist()
    assert shown.gallery(everything, 99, "resnet18")[2] == 2 and shown.gallery(everything, -1, "resnet18")[2] == 0
    assert shown.gallery(everything[:0], 1, "resnet18") == ("", [], 0, "No image fits this choice; widen it.")


def test_a_thumbnail_says_what_the_depth_answers(shown: Exhibit) -> None:
    assert shown.valid
    for index in range(4):
        said = texts(shown.thumbnails([index], "resnet18")).replace("\N{NO-BREAK SPACE}", " ")
        row, label = shown.valid.probabilities["resnet18"][index], shown.classes[shown.valid.images.labels[index]]
        says = shown.classes[int(row.argmax())]
        assert (f"✓ {label} ·" in said) if says == label else (f"✗ {says}, is {label} ·" in said)


def test_the_examples_begin_with_one_of_each_class(shown: Exhibit) -> None:
    assert shown.valid
    examples = shown.examples()
    assert sorted(shown.valid.images.labels[examples[:2]].tolist()) == [0, 1]
    assert len(set(examples)) == len(examples) <= answers.EXAMPLES


# ------------------------------------------------------------------------------------------------------ kept tables


@pytest.fixture
def evaluated(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy in which resnet18 is measured, as after a training, and its table is kept, as evaluate.py keeps it."""
    folder = tmp_path / "evaluated"
    shutil.copytree(made, folder)
    with inside(folder, staged):
        shown = exhibit(folder, ["resnet18"])
        assert shown.valid
        accuracy = shown.depths[0].accuracy[0]
        save_staged(folder / "weights", ["resnet18"], metrics={"valid_accuracy": accuracy, "valid_images": VALID})
        rows = shown.valid.probabilities["resnet18"]
        table = {"ID": shown.valid.images.ids, "label": shown.valid.images.labels, "prediction": rows.argmax(axis=1)}
        table |= {f"probability_{label}": rows[:, label] for label in range(2)}
        (folder / "report" / "tiny").mkdir(parents=True)
        pd.DataFrame(table).to_csv(folder / "report/tiny/valid_resnet18.csv", index=False, float_format="%.5f")
        yield folder


def test_a_kept_table_of_these_weights_is_taken(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = exhibit(evaluated, ["resnet18"])
    assert shown.valid and "which fits these weights" in capsys.readouterr().out
    table = pd.read_csv(evaluated / "report/tiny/valid_resnet18.csv")
    assert shown.valid.probabilities["resnet18"][:, 0].tolist() == table["probability_0"].tolist()


def test_a_kept_table_of_other_weights_is_not(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = evaluated / "weights/tiny/resnet18/best.safetensors"
    tensors = read_tensors(best)
    tensors["model.fc.weight"] = tensors["model.fc.weight"] * 1.05  # so little that every answer stays
    save_checkpoint(best, read_about(best), tensors)
    shown = exhibit(evaluated, ["resnet18"])
    assert shown.valid and "made by other weights" in capsys.readouterr().out
    table = pd.read_csv(evaluated / "report/tiny/valid_resnet18.csv")
    assert np.abs(shown.valid.probabilities["resnet18"][:, 0] - table["probability_0"]).max() > 1e-3


@pytest.mark.parametrize("fault", ["row", "label", "sum", "hits", "column", "bytes", "gone"])
def test_a_table_that_does_not_fit_the_list_is_not_believed(evaluated: Path, fault: str) -> None:
    path = evaluated / "report/tiny/valid_resnet18.csv"
    shown = exhibit(evaluated, ["resnet18"])
    assert shown.valid
    about = read_about(evaluated / "weights/tiny/resnet18/best.safetensors")
    assert read_kept(path, shown.valid.images, about, d4=False) is not None
    table = pd.read_csv(path)
    if fault == "row":
        table = table.iloc[[1, 0, *range(2, len(table))]]
    elif fault == "label":
        table["label"] = [1 - label if row == 3 else label for row, label in enumerate(table["label"])]
    elif fault == "sum":
        table.loc[3, "probability_0"] = 2.0
    elif fault == "hits":  # an answer that was changed by hand, where it is not probed
        table.loc[4, ["probability_0", "probability_1"]] = table.loc[4, ["probability_1", "probability_0"]].to_numpy()
    elif fault == "column":
        table = table.drop(columns="probability_1")
    table.to_csv(path, index=False)
    if fault == "bytes":
        path.write_bytes(b"\x80\0\x80")
    elif fault == "gone":
        path.unlink()
    assert read_kept(path, shown.valid.images, about, d4=False) is None


# ------------------------------------------------------------------------------------------------------ figures


def test_the_curves_are_the_histories() -> None:
    figure = curves_figure({"resnet18": pd.DataFrame(HISTORY), "resnet152": pd.DataFrame(HISTORY[:2])})
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines["ResNet18, valid"].y) == pytest.approx([60, 80, 75])
    assert list(lines["ResNet152, training"].y) == pytest.approx([50, 70])
    stars = [(trace.x[0], trace.y[0]) for trace in figure.data if trace.marker.symbol == "star"]
    assert stars == [(2, pytest.approx(80)), (2, pytest.approx(80))]
    loss = curves_figure({"resnet18": pd.DataFrame(HISTORY)}, "loss")
    assert [list(trace.y) for trace in loss.data] == [[0.7, 0.5, 0.3], [0.65, 0.45, 0.5], [0.45]]


def test_no_line_is_black_on_a_dark_page() -> None:
    histories = {model: pd.DataFrame(HISTORY) for model in DEPTHS}
    for dark, forbidden in ((True, "#000000"), (False, "#F2F2F2")):
        colours = {trace.line.color for trace in curves_figure(histories, dark=dark).data if trace.line.color}
        assert forbidden not in colours and len(colours) == 3


def test_a_history_without_loss_or_without_a_valid_accuracy_is_drawn() -> None:
    bare = pd.DataFrame([{"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": np.nan}])
    assert len(curves_figure({"resnet18": bare}).data) == 2
    assert len(curves_figure({"resnet18": bare}, "loss").data) == 2
    assert len(curves_figure({}).data) == 0


def test_the_matrix_shows_counts_and_colours_shares() -> None:
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 2]])
    figure = confusion_figure(matrix, ["a", "<b>", "c"], "resnet50")
    assert np.array(figure.data[0].z) == pytest.approx(np.array([[80, 20, 0], [0, 0, 0], [25, 25, 50]]))
    assert {(note.y, note.x): note.text for note in figure.layout.annotations} == {
        **{(0, 0): "8", (0, 1): "2", (2, 0): "1"},
        **{(2, 1): "1", (2, 2): "2"},
    }
    assert "71.43 % right" in figure.layout.title.text
    assert (
        figure.data[0].customdata[0][1] == "<b>a</b> taken for <b>&lt;b&gt;</b><br>2 images, 20.0 % of the true class"
    )
    errors = confusion_figure(matrix, ["a", "b", "c"], "resnet50", errors_only=True)
    assert np.array(errors.data[0].z) == pytest.approx(np.array([[0, 20, 0], [0, 0, 0], [25, 25, 0]]))
    assert errors.data[0].zmax == 25 and len(errors.layout.annotations) == 3


# ------------------------------------------------------------------------------------------------------ the command


def test_a_missing_library_is_named_with_the_command_that_brings_it(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lab.page.exhibit", None)
    with inside(made, staged), pytest.raises(UserError, match=r"--serve needs .*; `python -m pip install"):
        command(demo, "--data", "csv/tiny", "--device", "cpu", "--serve")


def test_images_and_the_page_are_not_both_asked_for() -> None:
    with pytest.raises(UserError, match="not both"):
        command(demo, "--serve", "cell.png")


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("models", [["resnet50"], ["resnet18", "resnet152"], DEPTHS])
def test_the_command_serves_what_is_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: list[str], lists: bool
) -> None:
    for model in models:
        shutil.copytree(made / "weights" / "tiny" / model, tmp_path / "weights" / "tiny" / model)
    if lists:
        shutil.copytree(made / "csv", tmp_path / "csv")
    asked: list[tuple[Exhibit, str, int | None]] = []
    monkeypatch.setattr("lab.page.server.serve", lambda *given: asked.append(given))
    with inside(tmp_path, staged):
        command(demo, "--data", "csv/tiny", "--device", "cpu", "--precision", "fp32", "--serve", "--port", "8123")
        build(asked[0][0])
    ((shown, host, port),) = asked
    assert [depth.model for depth in shown.depths] == models and (host, port) == ("127.0.0.1", 8123)
    assert (shown.valid is not None) == lists and (lists or "no lists found" in shown.why)
