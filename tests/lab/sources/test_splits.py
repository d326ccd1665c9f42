"""Splits: no patient and no content is in two lists, for any table and for the whole of C-NMC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lab.errors import UserError
from lab.sources import splits

SHARES = (75, 15, 10)

image = st.tuples(st.integers(0, 12), st.integers(0, 40), st.integers(0, 2))


def as_table(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["patient", "sha256", "label"]).assign(
        path=[f"{n}.bmp" for n in range(len(rows))]
    )


tables = st.lists(image, min_size=1, max_size=60).map(as_table)


def slow_groups(table: pd.DataFrame) -> list[set[int]]:
    """Oracle: add each row to a new group, merged with all groups that share a patient or a content with it."""
    groups: list[set[int]] = []
    for row, (patient, content) in enumerate(zip(table.patient, table.sha256, strict=True)):
        connected = [g for g in groups if any(table.patient[r] == patient or table.sha256[r] == content for r in g)]
        groups = [group for group in groups if group not in connected] + [{row}.union(*connected)]
    return groups


@settings(max_examples=25, deadline=None)
@given(st.lists(image, min_size=1, max_size=14).map(as_table))
def test_connected_groups_agree_with_the_oracle(table: pd.DataFrame) -> None:
    numbers = splits.connected_groups(table.patient, table.sha256)
    groups = {frozenset(np.flatnonzero(numbers == number)) for number in set(numbers)}
    assert groups == {frozenset(group) for group in slow_groups(table)}


@settings(max_examples=40, deadline=None)
@given(tables, st.integers(0, 3))
def test_split_by_patient_never_divides_a_group(table: pd.DataFrame, seed: int) -> None:
    groups = splits.connected_groups(table.patient, table.sha256)
    if len(set(groups)) < 3:
        with pytest.raises(UserError, match="at least 3 patients"):
            splits.split_by_patient(table, SHARES, seed)
        return
    split = splits.split_by_patient(table, SHARES, seed)
    pd.testing.assert_frame_equal(split.drop(columns="list"), table)  # every image once and unchanged
    assert set(split["list"]) == set(splits.LISTS)  # no list is empty
    for column in ("patient", "sha256"):
        assert (split.groupby(column)["list"].nunique() == 1).all()
    pd.testing.assert_frame_equal(split, splits.split_by_patient(table, SHARES, seed))


@settings(max_examples=40, deadline=None)
@given(tables, st.integers(0, 3))
def test_split_by_image_keeps_copies_in_train_and_fills_every_list_from_every_class(
    table: pd.DataFrame, seed: int
) -> None:
    table, _ = splits.without_conflicts(table)
    assume(len(table))
    copied = table["sha256"].duplicated(keep=False)
    try:
        split = splits.split_by_image(table, SHARES, seed)
    except UserError as error:
        assert "too few" in str(error)
        total = table.groupby("label").size()
        free = table[~copied].groupby("label").size().reindex(total.index, fill_value=0)
        assert (free < 0.25 * total + 2).any()  # valid and test take a quarter, rounded, and at least one image each
        return
    assert (split.loc[copied, "list"] == "train").all()
    assert (pd.crosstab(split["label"], split["list"])[list(splits.LISTS)] > 0).all().all()


def test_split_by_image_gives_each_class_its_shares() -> None:
    labels = [0] * 1000 + [1] * 200 + [2] * 40
    table = pd.DataFrame({"path": [f"{n}" for n in range(1240)], "label": labels})
    table["sha256"] = table["path"]
    split = splits.split_by_image(table, (70, 15, 15), seed=0)
    counts = pd.crosstab(split["label"], split["list"])[list(splits.LISTS)]
    assert counts.to_numpy().tolist() == [[700, 150, 150], [140, 30, 30], [28, 6, 6]]
    assert (split["list"] != splits.split_by_image(table, (70, 15, 15), seed=1)["list"]).any()


def test_without_conflicts_separates_images_with_two_labels() -> None:
    table = pd.DataFrame({"path": list("abcde"), "sha256": ["1", "1", "2", "2", "3"], "label": [0, 1, 1, 1, 0]})
    consistent, conflicts = splits.without_conflicts(table)
    assert consistent["path"].tolist() == ["c", "d", "e"] and conflicts["path"].tolist() == ["a", "b"]


def test_cnmc_names_are_read_in_any_letter_case_and_other_images_ignored() -> None:
    paths = ["fold_0/all/UID_5_1_2_all.bmp", "fold_2/hem/UID_h3_10_1_hem.bmp", "x/HEM/uid_H3_1_1_HEM.BMP", "test/1.bmp"]
    table, ignored = splits.cnmc_table(paths)
    assert table["patient"].tolist() == ["5", "H3", "H3"] and table["label"].tolist() == [1, 0, 0] and ignored == 1


def test_cnmc_names_that_cannot_be_read_are_reported_together() -> None:
    paths = ["all/UID_1_1_1_all.bmp", "all/cell.bmp", "hem/UID_H1_1_all.bmp", "hem/UID_1_1_1_all.bmp"]
    with pytest.raises(UserError, match="3 image names") as caught:
        splits.cnmc_table(paths)
    assert all(path in str(caught.value) for path in paths[1:])
    assert paths[0] not in str(caught.value)
    with pytest.raises(UserError, match="no image is in a folder all/ or hem/"):
        splits.cnmc_table(["a/1.bmp"])


def test_natural_order() -> None:
    names = ["9.bmp", "10.bmp", "a1", "a2", "A10"]
    assert sorted(sorted(names), key=splits.natural_key) == names


def test_written_lists_have_the_labs_format(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": [f"./{n}.bmp" for n in range(40)], "label": [n % 2 for n in range(40)]})
    table["list"] = ["train"] * 20 + ["valid"] * 8 + ["test"] * 12
    splits.write_lists(tmp_path, table, ("normal", "blast"), seed=0)
    assert {path.name for path in tmp_path.iterdir()} == set(splits.FILES)
    text = {name: (tmp_path / name).read_bytes().decode() for name in splits.FILES}
    assert text["train.csv"].startswith("Path,label\n./0.bmp,0\n./1.bmp,1\n")
    assert text["classes.csv"] == "label,name\n0,normal\n1,blast\n"
    assert all(part.endswith("\n") and "\r" not in part and not part.endswith("\n\n") for part in text.values())
    orders = [text[name].splitlines() for name in splits.TEST_LISTS]
    assert all(order[0] == "Path" for order in orders)
    assert len({tuple(order) for order in orders}) == 3  # three orders of the same images
    assert len({frozenset(order) for order in orders}) == 1
    labels = pd.read_csv(tmp_path / "test_labels.csv")
    assert set(labels["Path"]) == set(orders[0][1:])
    assert labels["label"].tolist() == table.loc[table["list"] == "test", "label"].tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_of_cnmc(shared_data: Callable[[str], Path], seed: int) -> None:
    manifest = pd.read_csv(shared_data("cnmc_layout") / "manifest.csv")
    table, ignored = splits.cnmc_table(path for path in manifest["path"] if path.endswith(".bmp"))
    assert (len(table), ignored) == (10_661, 4_453)
    assert table["label"].value_counts().to_dict() == {1: 7_272, 0: 3_389}
    table["sha256"] = table["path"].map(manifest.set_index("path")["sha256"])
    assert splits.without_conflicts(table)[1].empty
    split = splits.split_by_patient(table, SHARES, seed)
    for column in ("patient", "sha256"):
        assert (split.groupby(column)["list"].nunique() == 1).all()
    share = split["list"].value_counts(normalize=True)
    for name, wanted in zip(splits.LISTS, SHARES, strict=True):
        assert share[name] == pytest.approx(wanted / 100, abs=0.015)
    blasts = split.groupby("list")["label"].mean()
    assert ((blasts - 0.682).abs() < 0.02).all()
    # Patients 20 and 21 share 71 images, 51 shares 21 with 75 and 78: each of these groups is in one list.
    first = split.groupby("patient")["list"].first()
    assert first["20"] == first["21"] and first["51"] == first["75"] == first["78"]
