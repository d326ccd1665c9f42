"""lab.kaggle.submissions: a correct submission passes the check, and every fault is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import predict
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.errors import UserError
from lab.evaluation.metrics import wilson
from lab.kaggle.submissions import check_submission
from tests.made import command, make_data


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, ImageList]:
    """A data set and the list of its ResNet18."""
    data = read_data_set(make_data(tmp_path_factory.mktemp("task") / "tiny"))
    return data, read_list(data, "resnet_18_test", labelled=False)


def rows(images: ImageList) -> list[str]:
    """The lines of a correct submission."""
    return ["ID,label", *(f"{name},{index % 2}" for index, name in enumerate(images.ids))]


def check(folder: Path, task: tuple[DataSet, ImageList], lines: list[str], newline: str = "\n") -> list[int]:
    path = folder / "submission_resnet18.csv"
    path.write_bytes((newline.join(lines) + newline).encode())
    labels: list[int] = check_submission(path, task[1], task[0]).tolist()
    return labels


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_correct_submission_gives_its_labels(tmp_path: Path, task: tuple[DataSet, ImageList], newline: str) -> None:
    assert check(tmp_path, task, rows(task[1]), newline) == [index % 2 for index in range(len(task[1]))]


CHANGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "header": (lambda lines: ["id,Label", *lines[1:]], "line 1 is 'id,Label'; Kaggle expects 'ID,label'"),
    "one column": (lambda lines: [f'"{line}"' for line in lines], "line 1 is 'ID,label' in one pair of quotes; Kaggle"),
    "blank line first": (lambda lines: ["", *lines], "line 2 is 'ID,label'; Kaggle expects 'ID,label' on line 1"),
    "extra column": (lambda lines: [f"{line},0" for line in lines], "line 1 is 'ID,label,0'"),
    "surplus field": (lambda lines: [lines[0], *(f"{line},junk" for line in lines[1:])], "line 2: 3 fields"),
    "columns": (lambda lines: [",".join(line.split(",")[::-1]) for line in lines], "line 1 is 'label,ID'"),
    "row missing": (lambda lines: lines[:-1], "there is no row for './test/"),
    "row twice": (lambda lines: [*lines, lines[1]], "line 12: ID './test/.*' is a duplicate"),
    "foreign": (lambda lines: [*lines[:3], "./test/99.png,0", *lines[4:]], "line 4: ID './test/99.png' is not in"),
    "float": (lambda lines: [*lines[:2], lines[2].replace(",1", ",1.0"), *lines[3:]], "line 3: label '1.0' is not"),
    "class": (lambda lines: [*lines[:1], lines[1][:-1] + "2", *lines[2:]], "line 2: label '2' .* from 0 to 1"),
    "empty": (lambda lines: [*lines[:1], lines[1][:-1], *lines[2:]], "line 2: label ''"),
    "order": (lambda lines: [lines[0], *lines[:0:-1]], "another order than in resnet_18_test.csv"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_fault_is_named(tmp_path: Path, task: tuple[DataSet, ImageList], name: str) -> None:
    change, message = CHANGES[name]
    with pytest.raises(UserError, match=message):
        check(tmp_path, task, change(rows(task[1])))


def test_the_order_of_another_depths_list_is_recognised(tmp_path: Path, task: tuple[DataSet, ImageList]) -> None:
    other = read_list(task[0], "resnet_50_test", labelled=False)
    with pytest.raises(
        UserError, match=r"in resnet_18_test.csv; it is that of resnet_50_test.csv, another depth's list"
    ):
        check(tmp_path, task, rows(other))


def test_the_command(task: tuple[DataSet, ImageList], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "submission_resnet18.csv"
    path.write_text("\n".join(rows(task[1])))
    command(predict, "--data", task[0].folder, "--check", path)
    expected = "complete and in the order of resnet_18_test.csv, 10 rows; 50.0 % normal, 50.0 % leukemia blast"
    output = capsys.readouterr().out
    assert expected in output and "correct" not in output
    path.write_text("\n".join(["ID,label", *(f"{name},1" for name in task[1].ids)]))
    command(predict, "--data", task[0].folder, "--check", path)
    assert "warning: resnet18 predicts leukemia blast for 100.0 %" in capsys.readouterr().err
    alone = tmp_path / "alone"  # a folder of test lists only, as for weights trained elsewhere
    alone.mkdir()
    (alone / "resnet_18_test.csv").write_bytes(task[1].csv.read_bytes())
    command(predict, "--data", alone, "--check", path)
    assert "100.0 % class 1" in capsys.readouterr().out
    path.rename(tmp_path / "mine.csv")
    with pytest.raises(UserError, match="give --model"):
        command(predict, "--data", task[0].folder, "--check", tmp_path / "mine.csv")
    command(predict, "--data", task[0].folder, "--check", tmp_path / "mine.csv", "--model", "resnet18")
    for name in ("resnet_18_test_adam.csv", "My ResNet-18.csv"):  # the model by other spellings of its name
        (tmp_path / name).write_bytes((tmp_path / "mine.csv").read_bytes())
        command(predict, "--data", task[0].folder, "--check", tmp_path / name)


@pytest.fixture
def submission(task: tuple[DataSet, ImageList], tmp_path: Path) -> tuple[str | Path, ...]:
    """The options that check a submission of the labels 0, 1, 0, 1, …"""
    path = tmp_path / "submission_resnet18.csv"
    path.write_text("\n".join(rows(task[1])))
    return "--data", task[0].folder, "--check", path


def test_a_submission_is_scored(
    submission: tuple[str | Path, ...],
    task: tuple[DataSet, ImageList],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truth = [f"{name},{int(index in (1, 3, 4, 5, 7))}" for index, name in enumerate(task[1].ids)]  # 4 and 9 are wrong
    labels = tmp_path / "test_labels.csv"
    labels.write_text("\n".join(["Path,label", "./test/other.png,1", *reversed(truth)]))
    command(predict, *submission, "--labels", labels)
    low, high = wilson(8, 10)
    expected = (
        f"accuracy 80.00 % (95 % interval {100 * low:.2f}–{100 * high:.2f}), 8 of 10 labels agree with test_labels.csv"
    )
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "labels.csv",
            "Path,label\n./test/x.png,1\n",
            r"labels.csv: has no label for 10 images of the submission, the first",
        ),
        ("labels.csv", "ID,label\n./test/0.png,1\n", r"labels.csv: .*Path"),
        ("labels.csv", "Path,label\n./test/0.png,2\n", "label '2' is not a whole number from 0 to 1"),
        ("labels.csv", None, "labels.csv: there is no such list"),
        ("labels.txt", "", "labels.txt: needs a name that ends in .csv"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    submission: tuple[str | Path, ...], tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        command(predict, *submission, "--labels", tmp_path / name)


def test_labels_need_a_submission_and_classes(
    submission: tuple[str | Path, ...], task: tuple[DataSet, ImageList], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--labels needs a submission to score: --check FILE"):
        command(predict, *submission[:2], "--labels", "labels.csv")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "resnet_18_test.csv").write_bytes(task[1].csv.read_bytes())
    with pytest.raises(UserError, match=r"needs the classes: a train.csv or classes.csv in .*alone"):
        command(predict, "--data", tmp_path / "alone", *submission[2:], "--labels", task[1].csv)
