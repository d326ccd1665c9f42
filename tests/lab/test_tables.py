"""lab.tables: every row of a CSV file with the number of its first line; no row is dropped silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import UserError
from lab.tables import read_csv, read_rows


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_are_read_as_text(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, "Path,label\n007,1\n1e5,\n"), ["Path", "label"])
    assert table.to_numpy().tolist() == [["007", "1"], ["1e5", ""]]
    assert table.index.tolist() == [2, 3]


def test_rows_have_the_number_of_their_first_line(tmp_path: Path) -> None:
    path = write(tmp_path, '\r\nPath,note\r\na,"x\r\ny"\r\n \t\r\nb,\r\n""\r\n"c ""d""",e')
    assert read_rows(path, "") == [
        (2, ["Path", "note"]),
        (3, ["a", "x\r\ny"]),
        (6, ["b", ""]),
        (7, [""]),  # not blank, but an empty path
        (8, ['c "d"', "e"]),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('Path,label\na,0\n"b,1\nc,0\nd",1\n"e,0\n', "line 6: .*double quotes"),
        ('Path,label\na,0\n"b,1\nc,0\n"d",1\n', "line 3: .*double quotes"),  # would hide two rows
        ('Path,label\n"a"b,0\n', "line 2: .*double quotes"),
        ("Path,label\na,b,0\nc,1\n", "line 2: 3 fields where the lines before have 2; a comma within a path"),
        ("Path,label\r\ra,0\r" + "x" * 200_000 + ",1", "line 4: .*field larger"),
        (b"Path,label\r\na,0\r\n\xe9.bmp,1\r\n", "line 3: cannot be read as a UTF-8 CSV file .*save it anew as UTF-8"),
        ("Path,label\na,0\n".encode("utf-16"), "line 1: cannot be read as a UTF-8 CSV file"),
        ("Path\n".encode("utf-16-le"), r"line 1 has the columns 'P\\x00a\\x00t\\x00h\\x00"),
        (" \n\t\n\n", "the file is empty; expected the columns Path,label"),
    ],
)
def test_an_invalid_table_is_refused_by_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_csv(path, ["Path", "label"])
    assert str(path) in str(error.value) and str(error.value).isprintable()


def test_devices_and_missing_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="is not a file"):
            read_rows(path, "Path")
    with pytest.raises(UserError, match="there is no such list"):
        read_rows(tmp_path / "valid.csv", "Path")
