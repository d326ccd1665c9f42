"""Generated submissions, bad and hostile, by the rules of tests/lab/data/test_fuzz_lists.py."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from hypothesis import strategies as st

import predict
from lab.data.lists import ImageList, read_data_set, read_list
from lab.kaggle.submissions import check_submission, write_submission
from tests.hostile import LABELS, NO_LABELS, Tree, broken_text, hostile, refused, table
from tests.made import command


@hostile(st.data(), share=0.8)
def test_a_broken_submission_passes_only_where_nothing_broke(tree: Tree, data: st.DataObject) -> None:
    """Held against what pandas, and so Kaggle, makes of the file."""
    ids = ["./test/0.png", "./test/1.png", " test/2.png", "test/3 ü.png", "test/4.png"]
    tree.write("resnet_18_test", "Path\n" + "".join(f"{name}\n" for name in ids))
    tree.write("train", "Path,label\na,0\nb,1\n")
    tree.write("classes", "label,name\n0,a\n1,b\n")
    good = "ID,label\n" + "".join(f"{name},{index % 2}\n" for index, name in enumerate(ids))
    if data.draw(st.booleans()):
        path = tree.write("submission_resnet18", data.draw(broken_text(good)))
    else:  # rows left out, repeated or moved, and labels of all kinds
        kept = data.draw(st.permutations(ids) | st.just(ids) | st.lists(st.sampled_from(ids), max_size=6))
        labels_of = st.sampled_from(["0", "1"] * 80 + [*LABELS, *NO_LABELS])
        rows = [[text, data.draw(labels_of)] for text in kept]
        path = tree.write("submission_resnet18", pd.DataFrame(rows, columns=["ID", "label"]).to_csv(index=False))
    sets = read_data_set(tree.lists)
    images = read_list(sets, "resnet_18_test", labelled=False, check_files=False)
    labels: list[np.ndarray] = []
    if data.draw(st.integers(0, 9)) == 0:
        message = refused(lambda: command(predict, "--data", tree.lists, "--check", path))
    else:
        message = refused(lambda: labels.append(check_submission(path, images, sets)))
    if message:
        assert str(path) in message
        assert data.draw(st.just(path.read_bytes())) != good.encode()
        return
    read = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(read.columns) == ["ID", "label"] and read["ID"].tolist() == ids
    assert set(read["label"]) <= {"0", "1"} and (not labels or read["label"].astype(int).tolist() == labels[0].tolist())


LETTERS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]) | st.sampled_from("\",;' ./\\=$-")


@hostile(st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=6), st.data(), share=0.25)
def test_a_submission_repeats_ids_of_any_letters_in_their_order(
    tree: Tree, ids: list[str], data: st.DataObject
) -> None:
    tree.write("resnet_18_test", data.draw(table(["Path"], [[text] for text in ids]))[0])
    (tree.lists / "classes.csv").unlink(missing_ok=True)
    (tree.lists / "train.csv").unlink(missing_ok=True)
    sets = read_data_set(tree.lists)
    found: list[ImageList] = []
    if refused(lambda: found.append(read_list(sets, "resnet_18_test", labelled=False, check_files=False))):
        spelled = [os.path.normpath(text.strip().replace("\\", "/")) for text in ids]
        assert len(set(spelled)) < len(ids) or not all(map(str.strip, ids)) or any(text[0] == "/" for text in spelled)
        return
    assert found[0].ids == ids
    labels = np.arange(len(ids)) % 3
    path = tree.lists / "submission_resnet18.csv"
    write_submission(path, found[0], labels, sets)
    read = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=False)
    assert read["ID"].tolist() == ids and read["label"].tolist() == [str(label) for label in labels]
    if len(ids) > 1:
        path.write_text(read.iloc[::-1].to_csv(index=False))
        assert "the IDs stand in another order" in refused(lambda: check_submission(path, found[0], sets))
