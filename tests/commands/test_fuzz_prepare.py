"""Generated trees and arrays for prepare.py, damaged and hostile; see tests/lab/data/test_fuzz_lists.py."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

import prepare
from lab.data.lists import read_data_set, read_list, read_lists
from lab.sources.medmnist import medmnist_part
from tests.hostile import Tree, broken, hostile, read, refused
from tests.hostile_images import encode
from tests.made import command


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


PICTURES, NUMBERS = np.zeros((3, 4, 4), np.uint8), np.array([[0], [1], [1]], np.uint8)
SHAPES = [(0,), (3,), (3, 4, 4), (3, 4, 4, 3), (3, 4, 4, 4), (0, 4, 4), (3, 0, 4), (3, 4, 0, 3), (3, 1), (3, 2), (2, 1)]
SHAPES += [()]
TYPES = ["u1", "i1", "i8", "u8", "f4", "?", "U3", "S2", "M8[s]", "c8"]


@hostile(st.data(), share=0.25)
def test_arrays_of_any_kind_are_images_with_labels_or_refused(tree: Tree, data: st.DataObject) -> None:
    """A MedMNIST file with other arrays, or with damaged bytes."""
    parts: dict[str, Any] = {"train_images": PICTURES, "train_labels": NUMBERS}
    for name in parts:
        if data.draw(st.integers(0, 1)):
            shape = data.draw(st.sampled_from(SHAPES) | st.just(parts[name].shape))
            parts[name] = np.zeros(shape, data.draw(st.sampled_from(TYPES) | st.just("i8")))
            if parts[name].dtype.kind in "iu":
                wide = parts[name].itemsize == 8
                parts[name] += data.draw(st.sampled_from([0, 1, 127, 2**60 if wide else 2]))
    content = archive(**parts)
    file = tree.top / "tiny.npz"
    file.write_bytes(data.draw(broken(content)) if data.draw(st.integers(0, 2)) == 0 else content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about the names in the archive
        message, part = read(lambda: medmnist_part(file, "train"))
    if message:
        assert message.startswith(str(file))
        return
    images, labels = part
    assert images.dtype == np.uint8 and images.size and labels.dtype == np.int64 and len(labels) == len(images)
    assert 0 <= labels.min() <= labels.max() < 10_000
    Image.fromarray(images[0])


@hostile(st.lists(st.binary(min_size=1, max_size=6), min_size=6, max_size=9), share=0.06)
def test_a_tree_of_any_names_gives_readable_lists_or_is_refused(tree: Tree, names: list[bytes]) -> None:
    """File names are bytes on this system, but lists are text."""
    with tempfile.TemporaryDirectory(dir=tree.top) as temporary:
        source, out = Path(temporary) / "source", Path(temporary) / "lists"
        for index, name in enumerate(names):
            folder = source / ("a" if index % 2 else "b")
            folder.mkdir(parents=True, exist_ok=True)
            content = encode(Image.new("RGB", (3, 3), (index, 0, 0)), "PNG")
            (folder / os.fsdecode(name.replace(b"/", b"").replace(b"\0", b"") + b"%d.png" % index)).write_bytes(content)
        message = refused(lambda: command(prepare, "folders", source, "--out", out))
        if message:
            assert not out.exists()
            return
        data = read_data_set(out, source)
        lists = [*read_lists(data, ("train", "valid")).values(), read_list(data, "resnet_50_test", labelled=False)]
        assert sum(map(len, lists)) == len([*source.glob("*/*")])
