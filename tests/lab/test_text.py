"""Numbers, durations and foreign text as text."""

from __future__ import annotations

import pytest

from lab.text import counted, duration, shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (5400, "1.5 h"), (90000, "25.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (12345, "12,345 images")])
def test_counts(number: int, text: str) -> None:
    assert counted(number, "image") == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a b.bmp ", "a b.bmp"),
        ("ü €", "ü €"),
        ("a\nb\0\x1b[2J\u202e\udce9", r"a\nb\x00\x1b[2J\u202e\udce9"),
        ("a" * 150 + "b" * 150, "a" * 100 + "…" + "b" * 100),
    ],
)
def test_foreign_text_is_shown_on_one_line(text: str, line: str) -> None:
    assert shown(text) == line
