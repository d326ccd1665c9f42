"""lab.kaggle.submissions: a correct submission passes the check, and every fault is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import predict
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.errors import UserError
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
    expected = "correct, 10 rows in the order of resnet_18_test.csv; 50.0 % normal, 50.0 % leukemia blast"
    assert expected in capsys.readouterr().out
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
