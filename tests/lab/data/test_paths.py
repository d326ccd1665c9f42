"""lab.data.paths: a path leads below the folder that it starts from, or nowhere; links are followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.data.paths import locate, starts


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of lists and a working directory, each with an image, and an image outside of both."""
    for name in ("lists/0.bmp", "lists/sub/1.bmp", "here/2.bmp", "here/0.bmp", "3.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, target in {"linked": "../3.bmp", "out": "..", "hollow": "nothing", "loop": "loop"}.items():
        (tmp_path / "lists" / name).symlink_to(target)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("./0.bmp", "lists/0.bmp"),  # beside the list before the working directory
        ("2.bmp", "here/2.bmp"),
        (" .\\sub\\..\\sub//1.bmp ", "lists/sub/1.bmp"),
        ("../lists/sub/1.bmp", "lists/sub/1.bmp"),
        ("../here/2.bmp", "here/2.bmp"),
        ("TOP/here/2.bmp", "here/2.bmp"),
        ("linked", "lists/linked"),
        ("out/3.bmp", "lists/out/3.bmp"),  # a link is the owner's will, not the list's
    ],
)
def test_files_within(top: Path, text: str, where: str) -> None:
    place, spelling, wrong = locate(text.replace("TOP", str(top)), starts(top / "lists", None))
    assert (Path(place).absolute(), spelling, wrong) == (top / where, str(top / where), "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none.bmp", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("sub", "is not a file"),
        (".", "is not a file"),
        ("hollow", "is a link that leads to no file"),
        ("loop", "is a link that leads to no file"),
        *[
            (text, "lies outside of TOP/lists and TOP/here; name the folder that holds it with --root")
            for text in (
                "../3.bmp",
                "out/../../3.bmp",
                "TOP/3.bmp",
                "/etc/passwd",
                "../../../../../../../etc/passwd",
                "..",
            )
        ],
    ],
)
def test_what_is_not_there_or_not_within(top: Path, text: str, words: str) -> None:
    assert locate(text.replace("TOP", str(top)), starts(top / "lists", None))[2] == words.replace("TOP", str(top))


def test_a_root_is_the_only_place_and_may_be_the_whole_disk(top: Path) -> None:
    root = starts(top / "lists", Path("../lists"))
    assert locate("0.bmp", root) == ("../lists/0.bmp", str(top / "lists" / "0.bmp"), "")
    assert locate(f"{top}/lists/0.bmp", root)[2] == ""
    for text in ("2.bmp", "../here/2.bmp", f"{top}/here/2.bmp"):
        assert locate(text, root)[2] != ""
    assert f"lies outside of {top}/lists;" in locate("../3.bmp", root)[2]
    assert f"lies outside of {top}/lists;" in locate(f"{top}/lists2/0.bmp", root)[2]  # a like name is another folder
    assert locate(f"{top}/3.bmp", starts(top / "lists", Path("/")))[2] == ""
