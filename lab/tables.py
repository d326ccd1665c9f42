"""CSV files as people write them, read row by row, each row with the line that it begins on.

Python's reader is used and not pandas', which drops fields beyond those of the first row and, after a stray double quote,
whole rows, without a word.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd

from lab.errors import UserError
from lab.text import shown

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# Line breaks and what a terminal obeys. No name needs them, and a submission with them would fall apart.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte-order mark. Raises :class:`UserError` where it is none."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
            raise UserError(f"{path}: is not a file; name a CSV file.")
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such list.") from None
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        raise UserError(
            f"{path} line {line}: cannot be read as a UTF-8 CSV file ({error.reason}); save it anew as UTF-8."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a UTF-8 CSV file ({error.strerror or error}).") from None


def read_rows(path: Path, columns: str) -> list[tuple[int, list[str]]]:
    """All rows of a CSV file, the header first, each with the line that it begins on; blank lines are left out. Raises
    :class:`UserError` where the file is empty (``columns``: what was expected) or its double quotes do not match."""
    lines = LINE.findall(read_text(path))
    reader = csv.reader(lines, strict=True)
    rows, line = [], 1
    try:
        for fields in reader:
            if lines[line - 1].strip(" \t\r\n"):
                rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} line {line}: cannot be read as a UTF-8 CSV file ({error}); mend the double quotes from there on."
        ) from None
    if not rows:
        raise UserError(f"{path}: the file is empty; expected the columns {columns}.")
    return rows


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read ``columns`` of a CSV file as text, indexed by line. Headers match in any letter case; a byte-order mark, CRLF,
    spaces around headers, extra columns, blank lines and a missing final newline are all fine. Raises :class:`UserError`
    otherwise."""
    (line, header), *rows = read_rows(path, ",".join(columns))
    names = [name.strip().lower() for name in header]
    if any(column.lower() not in names for column in columns):
        raise UserError(
            f"{path}: line {line} has the columns '{shown(','.join(header))}'; expected {','.join(columns)}, separated "
            f"by commas."
        )
    for line, fields in rows:
        if len(fields) > len(header) and any(map(str.strip, fields[len(header) :])):
            raise UserError(
                f"{path} line {line}: {len(fields)} fields where the lines before have {len(header)}; a comma within a path "
                f'needs double quotes around the path: "a,b.bmp",1.'
            )
    place = {column: names.index(column.lower()) for column in columns}
    table = {column: [fields[at] if at < len(fields) else "" for _, fields in rows] for column, at in place.items()}
    return pd.DataFrame(table, index=[line for line, _ in rows], columns=columns, dtype=object)
