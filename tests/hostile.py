"""Generated lists for the tests test_fuzz_*: most are valid ones with damage, which tests more of a reader than random bytes."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import UserError
from lab.tables import CONTROL

CASES: Counter[str] = Counter()  # number of cases per test
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
LINE = re.compile(r"\r\n|\r|\n")


def hostile(*drawn: Any, share: float = 0.5) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return ``given`` with this share of the profile's number of examples; the cases are counted."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*args: Any, **named: Any) -> None:
            CASES[test.__name__] += 1
            test(*args, **named)

        number = max(5, round(share * settings().max_examples))
        return settings(max_examples=number, suppress_health_check=SLOW)(given(*drawn)(counted))

    return decorate


def refused(action: Callable[[], object]) -> str:
    """Return the message of the :class:`UserError` that ``action`` raises, or "". The message must be one sentence, or a title,
    at most ten problems and what to do; its lines must be short and without control characters."""
    try:
        action()
    except UserError as error:
        title, *listed = str(error).split("\n")
        assert len(listed) <= 12 and (not listed or title.endswith(":")), error
        assert str(error).endswith((".", ")")), error
        for line in (title, *listed):
            assert line.isprintable() and 0 < len(line) < 900, error
        return str(error)
    return ""


def read(action: Callable[[], object]) -> tuple[str, Any]:
    """Return the message of :func:`refused`, and the result of ``action`` or None if it was refused."""
    results: list[object] = []
    message = refused(lambda: results.append(action()))
    return message, results[0] if results else None


def problems(message: str) -> list[str]:
    """Return the listed problems of a message, at most ten."""
    return [line.strip() for line in message.split("\n")[1:-1] if not line.startswith("  … and ")]


# ---- damaged bytes ---------------------------------------------------------------------------------------------------

TOKENS = [b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\n\n", b" \t\n", b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf"]
TOKENS += [b";", b"\t"]
TOKENS += [b"../", b"/", b"\\", b"\x1a", b"\x1b[2J", b"-1", b".0", b"1", b"Path", b"ID,label\n", b"NA", b"a" * 300]
TOKENS += ["\u2028".encode(), "\x85".encode(), "é".encode("latin-1"), "٣".encode()]


@st.composite
def broken(draw: st.DrawFn, good: bytes, near: int = 1 << 30) -> bytes:
    """Damage ``good``: bytes changed, tokens inserted, parts deleted or repeated, the end cut off, most of it within the first
    ``near`` bytes, where headers are."""
    data = good
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), near)))
        length = draw(st.integers(0, 12))
        part = data[at : at + length]
        match draw(st.integers(0, 6)):
            case 0 | 1:
                data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + length // 3 :]
            case 2 | 3:
                data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
            case 4:
                data = data[:at] + data[at + length :]
            case 5:
                data = data[:at] + part * draw(st.integers(2, 5)) + data[at + length :]
            case 6:
                data = data[: draw(st.integers(0, len(data)))]
    return data


@st.composite
def broken_text(draw: st.DrawFn, good: str) -> bytes:
    """A table in another encoding, with another separator, or with damaged bytes."""
    match draw(st.integers(0, 9)):
        case 0:
            return good.encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp500"])))
        case 1:
            return good.replace(",", draw(st.sampled_from([";", "\t", "|", ", ", " ,", ",,", "،"]))).encode()
        case 2:
            return good.replace("0.png", "é.png").encode("latin-1")
        case 3:
            return draw(st.binary(max_size=200))
    return draw(broken(good.encode()))


# ---- tables -----------------------------------------------------------------------------------------------------------

LABELS = {"0": 0, "1": 1, "2": 2, " 1 ": 1, "+1": 1, "01": 1, "1\n": 1, "-0": 0}
NO_LABELS = ["", "cat", "1.0", "-1", "3", "1e3", "9" * 30, "٣", "nan", "0x1", "1 0", "1_0", "\0", '"', "1;0", "True"]
NO_LABELS += ["x" * 999]


@st.composite
def table(draw: st.DrawFn, columns: list[str], rows: list[list[str]]) -> tuple[bytes, list[int]]:
    """A table in any accepted form, and the line that each row begins on."""
    order = draw(st.permutations(range(len(columns) + draw(st.integers(0, 2)))))  # with extra columns, in any order
    newline, quotes = draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.booleans())

    def spelled(text: str) -> str:
        quoted = quotes or CONTROL.search(text) or set(text) & set(',"\u2028') or not text.strip()
        return '"{}"'.format(text.replace('"', '""')) if quoted else text

    def line(fields: list[str]) -> str:
        spread = [fields[at] if at < len(fields) else "x,\ny" for at in order]
        return ",".join(map(spelled, spread)) + draw(st.sampled_from(["", "", "", ",", ",, "]))

    header = [draw(st.sampled_from([name, name.upper(), f" {name} ", name.lower()])) for name in columns]
    text, lines = ",".join(header[at] if at < len(header) else "note" for at in order), []
    for row in rows:
        text += newline + draw(st.sampled_from(["", "", "", newline, f" \t{newline}"]))
        lines.append(len(LINE.split(text)))
        text += line(row)
    text += draw(st.sampled_from(["", newline, 2 * newline]))
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode(), lines


@dataclass(frozen=True)
class Tree:
    """A folder with lists and images, a working directory beside it, and an image outside both."""

    top: Path

    @property
    def lists(self) -> Path:
        return self.top / "lists"

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a list without any conversion."""
        path = self.lists / f"{name}.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
