"""lab.data.paths: a path must stay below the folder that it starts from; links are followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.data.paths import locate, nearby, starts


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
    ("text", "file"),
    [
        ("./0.bmp", "lists/0.bmp"),  # the list's folder comes before the working directory
        ("2.bmp", "here/2.bmp"),
        (" .\\sub\\..\\sub//1.bmp ", "lists/sub/1.bmp"),
        ("../lists/sub/1.bmp", "lists/sub/1.bmp"),
        ("../here/2.bmp", "here/2.bmp"),
        ("TOP/here/2.bmp", "here/2.bmp"),
        ("linked", "lists/linked"),
        ("out/3.bmp", "lists/out/3.bmp"),  # links are made by the owner of the folder, not by the list
    ],
)
def test_files_inside_the_folders_are_found(top: Path, text: str, file: str) -> None:
    path, absolute, problem = locate(text.replace("TOP", str(top)), starts(top / "lists", None))
    assert (Path(path).absolute(), absolute, problem) == (top / file, str(top / file), "")


OUTSIDE = ("../3.bmp", "out/../../3.bmp", "TOP/3.bmp", "/etc/passwd", "../../../../../../../etc/passwd", "..")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none.bmp", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("sub", "is not a file"),
        (".", "is not a file"),
        ("hollow", "is a link that leads to no file"),
        ("loop", "is a link that leads to no file"),
        *(
            (text, "is outside of TOP/lists and TOP/here; name the folder that contains it with --root")
            for text in OUTSIDE
        ),
    ],
)
def test_other_paths_are_problems(top: Path, text: str, expected: str) -> None:
    assert locate(text.replace("TOP", str(top)), starts(top / "lists", None))[2] == expected.replace("TOP", str(top))


def test_a_root_is_the_only_folder_and_may_be_the_whole_disk(top: Path) -> None:
    root = starts(top / "lists", Path("../lists"))
    assert locate("0.bmp", root) == ("../lists/0.bmp", str(top / "lists" / "0.bmp"), "")
    assert locate(f"{top}/lists/0.bmp", root)[2] == ""
    assert locate("2.bmp", root)[2] == "does not exist"
    for text in ("../here/2.bmp", f"{top}/here/2.bmp", "../3.bmp", f"{top}/lists2/0.bmp"):
        assert f"is outside of {top}/lists;" in locate(text, root)[2]
    assert locate(f"{top}/3.bmp", starts(top / "lists", Path("/")))[2] == ""


@pytest.mark.parametrize(
    ("text", "folder", "near"),
    [
        ("0.BMP", "lists", "TOP/lists/0.bmp exists, which is spelled differently"),
        ("1.bmp", "lists", "TOP/lists/sub/1.bmp exists; --root TOP/lists/sub finds it"),  # one folder down
        ("sub/1.bmp", "lists/sub", "TOP/lists/sub/1.bmp exists; --root TOP/lists finds it"),  # one folder up
        ("renamed/2.bmp", "here", "TOP/here/2.bmp exists; the paths of the list begin with a folder too many"),
        ("cafe\u0301.bmp", "names", "TOP/names/caf\u00e9.bmp exists, which is spelled differently"),  # Unicode NFD, NFC
        ("gone.bmp", "lists", ""),
        ("0.bmp", "nowhere", "TOP/nowhere cannot be opened"),
    ],
)
def test_a_file_that_is_narrowly_missed_is_named(top: Path, text: str, folder: str, near: str) -> None:
    (top / "names").mkdir()
    (top / "names" / "caf\u00e9.bmp").touch()
    assert nearby(text, [f"{top / folder}/"]) == near.replace("TOP", str(top))
