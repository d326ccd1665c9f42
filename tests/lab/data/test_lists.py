"""lab.data.lists: CSV lists are read in every common form, and all problems of a list are reported together, by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataloader import getData
from lab.data.lists import ImageList, data_name, find_folder, parse_label, read_data_set, read_list, read_lists
from lab.errors import UserError


def write(folder: Path, content: str | bytes, name: str = "train") -> Path:
    """Write one list byte for byte."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def images(folder: Path, *names: str) -> Path:
    """Make empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def load(folder: Path, name: str = "train", check_files: bool = False, root: Path | None = None) -> ImageList:
    return read_list(read_data_set(folder, root), name, labelled=name in ("train", "valid"), check_files=check_files)


def refusal(folder: Path, name: str = "train", check_files: bool = False, root: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, name, check_files, root)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "Path,label\na.bmp,0\nb.bmp,1\n",
        "Path,label\na.bmp,0\nb.bmp,1",
        "Path,label\r\na.bmp,0\r\nb.bmp,1\r\n",
        "Path,label\ra.bmp,0\rb.bmp,1\r",
        b"\xef\xbb\xbfPath,label\r\na.bmp,0\r\nb.bmp,1",
        "path,LABEL\na.bmp,0\nb.bmp,1\n",
        " Path , Label \na.bmp, 0 \nb.bmp,\t1\n",
        '"Path","label"\n"a.bmp","0"\n"b.bmp","1"\n',
        "id,label,Path,note\n9,0,a.bmp,x\n8,1,b.bmp,\n",
        "label,Path\n0,a.bmp\n1,b.bmp\n",
        "Path,label\n\na.bmp,0\n\n  \nb.bmp,1\n\n\n",
        "Path,label\na.bmp,+0\nb.bmp,01\n",
    ],
    ids=["plain", "no newline", "CRLF", "CR", "BOM", "case", "spaces", "quoted", "extra", "swapped", "blank", "signs"],
)
def test_accepted_forms(content: str | bytes, tmp_path: Path) -> None:
    listed = load(write(tmp_path, content))
    assert listed.ids == ["a.bmp", "b.bmp"]
    assert listed.paths == [tmp_path / "a.bmp", tmp_path / "b.bmp"]
    assert listed.labels.dtype == np.int64 and listed.labels.tolist() == [0, 1]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty; expected the columns Path,label"),
        ("Path;label\na.bmp;0\n", "line 1 has the columns 'Path;label'; expected Path,label, separated by commas"),
        ("a.bmp,0\nb.bmp,1\n", "line 1 has the columns 'a.bmp,0'; expected Path,label"),
        (b"Path,label\n\xff\xfe.bmp,0\n", "cannot be read as a UTF-8 CSV file"),
        ('Path,label\n"a.bmp,0\n', "cannot be read as a UTF-8 CSV file"),
        ("Path,label\n", "a header but no rows"),
        ("Path,label\na.bmp,0\nb.bmp,0\n", "label 1 never occurs, only 0; the column 'label' must contain"),
        ("Path,label\na.bmp,1\nb.bmp,2\n", "label 0 never occurs, only 1, 2; .* in classes.csv"),
        ("Path,label\na.bmp,0\nb.bmp,1\nc,d.bmp,1\n", "line 4: 3 fields where the lines before have 2; a comma within"),
    ],
)
def test_a_file_that_is_no_list_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(write(tmp_path, content))
    assert str(tmp_path / "train.csv") in str(caught.value)


def test_a_label_above_the_others_is_reported_by_row_with_the_rest(tmp_path: Path) -> None:
    """A typing error must not add classes or hide another problem."""
    write(tmp_path, "Path,label\na.bmp,0\nb.bmp,1\nc.bmp,999999999\nd.bmp,1\n")
    write(tmp_path, "Path,label\ne.bmp,7\n", "valid")
    images(tmp_path, "a.bmp", "b.bmp", "c.bmp", "e.bmp")
    with pytest.raises(UserError) as caught:
        read_lists(read_data_set(tmp_path), ("train", "valid"))
    text = str(caught.value)
    assert "train.csv line 4: label '999999999' is not a whole number from 0 to 1 (2 never occurs in train.csv)" in text
    assert "train.csv line 5: d.bmp does not exist" in text and "valid.csv line 2: label '7'" in text


def test_an_empty_or_missing_list_is_named(tmp_path: Path) -> None:
    write(write(tmp_path, "Path,label\na.bmp,0\nb.bmp,1\n"), "Path\n", "resnet_18_test")
    assert "resnet_18_test.csv: the list has a header but no rows" in refusal(tmp_path, "resnet_18_test")
    assert "valid.csv: there is no such list" in refusal(tmp_path, "valid")


def test_every_kind_of_problem_is_reported_at_once_with_its_row(tmp_path: Path) -> None:
    rows = ["a.bmp,0", "b.bmp,1.0", "gone.bmp,1", "", "./a.bmp,1", "c.bmp,-1", "d.bmp,2", ",0", "e.bmp,", "f.bmp,blast"]
    images(write(tmp_path, "\n".join(["Path,label", *rows])), *(f"{letter}.bmp" for letter in "abcdef"))
    write(tmp_path, "label,name\n0,normal\n1,leukemia blast\n", "classes")
    text = refusal(tmp_path, check_files=True)
    for line in (
        "train.csv line 3: label '1.0' is not a whole number from 0 to 1",
        "train.csv line 4: gone.bmp does not exist",
        "train.csv line 6: ./a.bmp is already on line 2",  # the blank line 5 is counted
        "train.csv line 7: label '-1' is not",
        "train.csv line 8: label '2' is not",
        "train.csv line 9: the path is empty",
        "train.csv line 10: label '' is not",
        "train.csv line 11: label 'blast' is not",
    ):
        assert line in text
    assert "8 problems" in text and "more" not in text


def test_without_a_check_of_files_paths_may_lead_anywhere(tmp_path: Path) -> None:
    """Checking a submission needs the IDs only, and no --root."""
    write(tmp_path, "Path\n/data/b.bmp\n../a.bmp\n", "resnet_18_test")
    assert load(tmp_path, "resnet_18_test").ids == ["/data/b.bmp", "../a.bmp"]


@given(st.integers(-(10**9) + 1, 10**9 - 1), st.sampled_from(["", " ", "\t "]))
def test_labels_are_whole_numbers_with_spaces_around(number: int, space: str) -> None:
    assert parse_label(f"{space}{number}{space}") == number


@pytest.mark.parametrize("text", ["", " ", "1.0", "1e3", "one", "0x1", "1 0", "٣", "²", "nan", "--1", "1" * 10, "1_0"])
def test_nothing_else_is_a_label(text: str) -> None:
    assert parse_label(text) is None


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_classes_come_from_classes_csv_in_label_order(tmp_path: Path) -> None:
    write(write(tmp_path, "Path,label\na.bmp,0\n"), "Label,Name\r\n2, pro \r\n0,benign\r\n1,early\r\n", "classes")
    assert read_data_set(tmp_path).classes == ["benign", "early", "pro"]
    assert load(tmp_path).labels.tolist() == [0]  # a class need not occur


@pytest.mark.parametrize(
    ("folder", "count", "names"),
    [
        ("lab3", 2, ["normal", "leukemia blast"]),
        ("cats", 2, ["class 0", "class 1"]),
        ("lab3", 3, ["class 0", "class 1", "class 2"]),
    ],
)
def test_without_classes_csv_train_csv_is_counted(folder: str, count: int, names: list[str], tmp_path: Path) -> None:
    rows = "".join(f"{i}.bmp,{i % count}\n" for i in range(7))
    (tmp_path / folder).mkdir()
    assert read_data_set(write(tmp_path / folder, "Path,label\n" + rows)).classes == names


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (["all", "hem", " all "], "write 0 for hem, 1 for all, and the same numbers"),
        (["True", "False"], "write 0 for False, 1 for True,"),
        (["1.0", "0.0"], "write 0 for 0.0, 1 for 1.0,"),
        ([f"kind {number:02}" for number in range(12)], "9 for kind 09 and so on,"),
    ],
)
def test_labels_that_are_no_numbers_are_refused_with_a_mapping(labels: list[str], advice: str, tmp_path: Path) -> None:
    rows = "".join(f"{i}.bmp,{label}\n" for i, label in enumerate(labels))
    with pytest.raises(UserError, match="the column 'label' contains no whole number") as caught:
        read_data_set(write(tmp_path, "Path,label\n" + rows))
    assert advice in str(caught.value) and "classes.csv" in str(caught.value)


def test_a_class_name_in_place_of_a_label_is_recognised(tmp_path: Path) -> None:
    write(write(tmp_path, "Path,label\na.bmp,all\nb.bmp,0\n"), "label,name\n0,hem\n1,all\n", "classes")
    assert "line 2: label 'all' is not a whole number from 0 to 1; it is the name of class 1" in refusal(tmp_path)


def test_all_problems_are_written_to_a_file(
    tmp_path: Path, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.data.lists.PROBLEMS", Path("problems.txt"))  # as outside of the tests
    rows = "".join(f"{i}.bmp,{i % 2}\n" for i in range(220))
    message = refusal(write(tmp_path, "Path,label\n" + rows), check_files=True)
    assert message.count("does not exist") == 10 and "and 210 more; all are in problems.txt" in message
    assert Path("problems.txt").read_text().count("does not exist") == 220


def test_the_first_missing_file_has_the_way_to_it(tmp_path: Path) -> None:
    images(tmp_path / "lists" / "deeper", "a.bmp", "b.bmp")
    message = refusal(write(tmp_path / "lists", "Path,label\na.bmp,0\nb.bmp,1\n"), check_files=True)
    assert message.count(f"--root {tmp_path}/lists/deeper finds it") == 1


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_paths_start_from_root_or_else_the_list_or_the_working_folder(working_folder: Path, tmp_path: Path) -> None:
    lists, root = write(tmp_path / "lists", "Path,label\nx/a.bmp,0\nx/b.bmp,1\n"), tmp_path / "root"
    images(working_folder, "x/a.bmp", "x/b.bmp")
    images(lists, "x/a.bmp")
    images(root, "x/a.bmp", "x/b.bmp")
    listed = load(lists, check_files=True)
    assert [path.absolute() for path in listed.paths] == [lists / "x" / "a.bmp", working_folder / "x" / "b.bmp"]
    assert load(lists, check_files=True, root=root).paths == [root / "x" / "a.bmp", root / "x" / "b.bmp"]

    (root / "x" / "b.bmp").unlink()  # with --root no other folder is searched
    text = refusal(lists, check_files=True, root=root)
    assert f"the images were searched in {root}:" in text and "line 3: x/b.bmp does not exist" in text
    (working_folder / "x" / "b.bmp").unlink()
    assert f"the images were searched in {lists} and {working_folder}:" in refusal(lists, check_files=True)
    with pytest.raises(UserError, match=r"--root .*nowhere is not a folder"):
        read_data_set(lists, tmp_path / "nowhere")


def test_a_data_set_is_found_by_folder_by_name_and_directly_in_csv(working_folder: Path) -> None:
    content = "Path,label\na.bmp,0\nb.bmp,1\n"
    with pytest.raises(UserError) as caught:
        find_folder("csv/lab3")
    assert "csv/lab3, csv/csv/lab3, csv" in str(caught.value) and "prepare.py" in str(caught.value)
    write(working_folder / "csv", content)
    data = read_data_set("csv/lab3")
    assert (data.name, data.folder) == ("lab3", Path("csv"))
    assert read_data_set("csv").name == "lab3"
    assert data_name(working_folder / "elsewhere" / "csv") == "csv"  # not the lab's
    for name in ("lab3", "mine"):
        write(working_folder / "csv" / name, content)
        data = read_data_set(name)
        assert data == read_data_set(f"csv/{name}") and (data.name, data.folder) == (name, Path("csv", name))
    with pytest.raises(UserError, match=r"--data other: looked for train\.csv in other, csv/other"):
        read_data_set("other")  # only lab3 may be directly in csv


# ---- the lab's own lists ---------------------------------------------------------------------------------------------


def test_the_real_lists_of_the_lab(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("lab3_lists")
    for mode, rows in (("train", 7995), ("valid", 1599)):
        paths, labels = getData(mode, folder)
        table = pd.read_csv(folder / f"{mode}.csv")
        assert (paths, labels) == (table["Path"].tolist(), table["label"].tolist()) and len(paths) == rows
        assert all(type(label) is int for label in labels)
    orders = [getData(f"resnet_{depth}_test", folder) for depth in (18, 50, 152)]
    for depth, order in zip((18, 50, 152), orders, strict=True):
        assert order == (folder / f"resnet_{depth}_test.csv").read_text().split("\n")[1:]
        assert len(order) == len(set(order)) == 1067
    assert orders[0] != orders[1] != orders[2] and set(orders[0]) == set(orders[1]) == set(orders[2])
    assert orders[0][0] == "./new_dataset/test/867.bmp"
    text = refusal(folder, check_files=True)  # the folder has no images
    assert "7,995 problems" in text and "and 7,985 more" in text


def test_a_misspelled_data_set_is_told_from_a_missing_one(working_folder: Path) -> None:
    write(working_folder / "csv" / "sample", "Path,label\n")
    with pytest.raises(
        UserError, match=r"looked for train.csv in sampel, csv/sampel \(did you mean --data sample\?\);"
    ):
        find_folder("sampel")
    with pytest.raises(UserError, match=r"looked for train.csv in pbc8, csv/pbc8; make them"):
        find_folder("pbc8")
