"""The page's texts in both languages."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from lab.page import texts
from lab.page.texts import TEXTS


def placeholders(text: str) -> set[str]:
    return {re.split(r"[:!]", name)[0] for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_and_placeholders() -> None:
    english, chinese = TEXTS["en"], TEXTS["zh"]
    for own, other in ((english.table, chinese.table), (english.browser, chinese.browser)):
        assert list(own) == list(other)
        for key, text in own.items():
            assert placeholders(text) == placeholders(other[key]) and text.strip() and other[key].strip(), key


def test_every_text_that_the_code_names_exists_and_every_text_is_used() -> None:
    folder = Path(texts.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    named = set(re.findall(r"""say\(\s*["'](\w+)["']""", code))
    prefixes = tuple(set(re.findall(r"""say\(f["'](\w+_)\{""", code)))
    table = TEXTS["en"].table
    assert named <= set(table) and len(named) > 50
    assert [
        key for key in table if f'"{key}"' not in code and f"'{key}'" not in code and not key.startswith(prefixes)
    ] == []
    script = (folder / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\btext\('(\w+)'", script)) == set(TEXTS["en"].browser)


@pytest.mark.parametrize(
    ("language", "names", "text"),
    [("en", ["A"], "A"), ("en", ["A", "B", "C"], "A, B and C"), ("zh", ["A", "B", "C"], "A、B 和 C")],
)
def test_names_are_listed(language: str, names: list[str], text: str) -> None:
    assert TEXTS[language].listed(names) == text


def test_a_reason_is_translated_and_an_unknown_one_stays() -> None:
    assert TEXTS["zh"].reason("the file is empty") == "檔案是空的"
    assert TEXTS["zh"].reason("something else") == TEXTS["en"].reason("something else") == "something else"
