"""Formats numbers, durations and foreign text for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 image``, ``1,200 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float, digits: int = 2) -> str:
    """A fraction as ``97.50 %``."""
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float) -> str:
    """Seconds as text: ``45 s``, ``23 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def shown(text: str, longest: int = 200) -> str:
    """Foreign text for a message: on one line, control characters escaped, a long text shortened in the middle."""
    text = text.strip()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"
