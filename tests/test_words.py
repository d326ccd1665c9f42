"""Numbers in words."""

from __future__ import annotations

import pytest

from lab.words import counted, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (5400, "1.5 h"), (90000, "25.0 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 images"), (1, "1 image"), (12345, "12,345 images")])
def test_counts_in_words(number: int, words: str) -> None:
    assert counted(number, "image") == words
