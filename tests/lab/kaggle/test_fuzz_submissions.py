"""Generated submissions, damaged and hostile; see tests/lab/data/test_fuzz_lists.py."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from hypothesis import strategies as st

import predict
from lab.data.lists import read_data_set, read_list
from lab.kaggle.submissions import check_submission, write_submission
from tests.hostile import LABELS, NO_LABELS, Tree, broken_text, hostile, read, refused, table
from tests.made import command


@hostile(st.data(), share=0.8)
def test_a_broken_submission_passes_only_if_pandas_reads_it_right(tree: Tree, data: st.DataObject) -> None:
    """pandas stands for Kaggle's reader."""
    ids = ["./test/0.png", "./test/1.png", " test/2.png", "test/3 ü.png", "test/4.png"]
    tree.write("resnet_18_test", "Path\n" + "".join(f"{name}\n" for name in ids))
    tree.write("train", "Path,label\na,0\nb,1\n")
    tree.write("classes", "label,name\n0,a\n1,b\n")
    good = "ID,label\n" + "".join(f"{name},{index % 2}\n" for index, name in enumerate(ids))
    if data.draw(st.booleans()):
        path = tree.write("submission_resnet18", data.draw(broken_text(good)))
    else:  # rows left out, repeated or moved, and labels of all kinds
        some_ids = data.draw(st.permutations(ids) | st.just(ids) | st.lists(st.sampled_from(ids), max_size=6))
        any_label = st.sampled_from(["0", "1"] * 80 + [*LABELS, *NO_LABELS])
        rows = [[name, data.draw(any_label)] for name in some_ids]
        path = tree.write("submission_resnet18", pd.DataFrame(rows, columns=["ID", "label"]).to_csv(index=False))
    data_set = read_data_set(tree.lists)
    images = read_list(data_set, "resnet_18_test", labelled=False, check_files=False)
    if data.draw(st.integers(0, 9)) == 0:
        message, labels = read(lambda: command(predict, "--data", tree.lists, "--check", path))
    else:
        message, labels = read(lambda: check_submission(path, images, data_set))
    if message:
        assert str(path) in message and path.read_bytes() != good.encode()
        return
    expected = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(expected.columns) == ["ID", "label"] and expected["ID"].tolist() == ids
    assert set(expected["label"]) <= {"0", "1"}
    assert labels is None or expected["label"].astype(int).tolist() == labels.tolist()


LETTERS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]) | st.sampled_from("\",;' ./\\=$-")


@hostile(st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=6), st.data(), share=0.25)
def test_a_submission_repeats_ids_of_any_characters_in_their_order(
    tree: Tree, ids: list[str], data: st.DataObject
) -> None:
    tree.write("resnet_18_test", data.draw(table(["Path"], [[text] for text in ids]))[0])
    (tree.lists / "classes.csv").unlink(missing_ok=True)
    (tree.lists / "train.csv").unlink(missing_ok=True)
    data_set = read_data_set(tree.lists)
    message, images = read(lambda: read_list(data_set, "resnet_18_test", labelled=False, check_files=False))
    if message:
        paths = [os.path.normpath(text.strip().replace("\\", "/")) for text in ids]
        assert len(set(paths)) < len(ids) or not all(map(str.strip, ids)) or any(text[0] == "/" for text in paths)
        return
    assert images.ids == ids
    labels = np.arange(len(ids)) % 3
    path = tree.lists / "submission_resnet18.csv"
    write_submission(path, images, labels, data_set)
    written = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=False)
    assert written["ID"].tolist() == ids and written["label"].tolist() == [str(label) for label in labels]
    if len(ids) > 1:
        path.write_text(written.iloc[::-1].to_csv(index=False))
        assert "the IDs are in another order" in refused(lambda: check_submission(path, images, data_set))
