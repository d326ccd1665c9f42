"""What a run goes on from, and what is refused; test_train.py and test_interrupt.py go on with whole runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from made import about, settings

from lab.errors import UserError
from lab.resume import check_record, go_on_with, read_settings, same_run


def test_the_same_settings_pass_and_others_are_named(tmp_path: Path) -> None:
    last = tmp_path / "last.safetensors"
    began = settings(lr=0.1, seed=0)
    go_on_with(began, {"lr": 0.1, "data": "csv/elsewhere", "model": "all", "fresh": False}, last, finished=False)
    with pytest.raises(UserError) as error:
        go_on_with(began, {"lr": 0.2, "seed": 3, "size": 64}, last, finished=False)
    for words in (
        str(last),
        "began with other settings",
        "lr 0.1 → 0.2",
        "seed 0 → 3",
        "leave them out to go on",
        "--fresh",
    ):
        assert words in str(error.value)
    assert "size" not in str(error.value)
    with pytest.raises(
        UserError, match=r"finished already, with other settings \(epochs 3 → 9\); --fresh trains it anew"
    ):
        go_on_with(began, {"epochs": 9}, last, finished=True)


@pytest.mark.parametrize("change", [{"lr": "fast"}, {"mood": "good"}, {"lr": None}])
def test_settings_of_another_version_are_refused(change: dict[str, Any]) -> None:
    said = about(settings=asdict(settings()) | change)
    with pytest.raises(UserError, match=r"last: its settings are not those of this version.*\((lr|mood)\).*--fresh"):
        read_settings(Path("last"), said)
    assert read_settings(Path("last"), about(settings=asdict(settings()))) == settings()


def test_a_run_is_the_same_by_its_lists_settings_and_beginning() -> None:
    """Patience may change on the way, and a run that went on elsewhere has more records."""
    one = about(settings=asdict(settings()), records=[{"device": "cpu"}])
    assert same_run(one, about(settings=asdict(settings(patience=7)), records=[{"device": "cpu"}, {"device": "cuda"}]))
    assert not same_run(one, about(settings=asdict(settings(lr=0.3)), records=[{"device": "cpu"}]))
    assert not same_run(one, about(settings=asdict(settings()), records=[{"device": "cuda"}]))
    assert not same_run(one, about(settings=asdict(settings()), records=[{"device": "cpu"}], lists="others"))


def test_other_images_are_refused_and_other_versions_said(capsys: pytest.CaptureFixture[str]) -> None:
    saved = about(records=[{"images": "one", "torch": "2.13"}, {"images": "one", "torch": "2.14"}])
    check_record(saved, {"images": "one", "torch": "2.14"}, Path("last"), Path("csv/lab3"))
    check_record(about(), {"images": "one"}, Path("last"), Path("csv/lab3"))  # a checkpoint without records
    assert capsys.readouterr().out == ""
    check_record(saved, {"images": "one", "torch": "2.15"}, Path("last"), Path("csv/lab3"))
    assert "goes on under other conditions" in (said := capsys.readouterr().out) and "torch 2.14 → 2.15" in said
    with pytest.raises(UserError, match=r"last: images of csv/lab3 have changed .*--fresh"):
        check_record(saved, {"images": "two", "torch": "2.14"}, Path("last"), Path("csv/lab3"))
