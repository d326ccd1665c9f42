"""Reads CSV files row by row, each row with the number of its first line.

Uses Python's csv module, because pandas silently drops extra fields and, after a stray double quote, whole rows.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import UserError
from lab.text import shown

if TYPE_CHECKING:
    import pandas as pd

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# Line breaks and other control characters. No name needs them, and they would break a submission.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte-order mark. Raises :class:`UserError` if it cannot be read as such."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
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
    """The rows of a CSV file, header first, each with the number of its first line; blank lines are skipped. Raises
    :class:`UserError` if the file is empty (``columns`` are those expected) or its double quotes do not match."""
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
    """Read ``columns`` of a CSV file as text, indexed by line number. Headers match in any letter case. A byte-order mark, CRLF,
    spaces around headers, extra columns, blank lines and a missing final newline are accepted. Raises :class:`UserError` for
    other deviations."""
    import pandas as pd  # takes a second; a missing file is reported before

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
    indices = {column: names.index(column.lower()) for column in columns}
    table = {name: [fields[i] if i < len(fields) else "" for _, fields in rows] for name, i in indices.items()}
    return pd.DataFrame(table, index=[line for line, _ in rows], columns=columns, dtype=object)
