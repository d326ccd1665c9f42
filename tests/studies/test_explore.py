"""Exploration: planted faults are found, by name; the hash of an image turns as the image does; the page needs no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from lab.errors import UserError
from lab.sources.sample import draw
from studies import duplicates, explore, features, findings, suspects
from studies.measurements import MEASURES, SIGNS, coefficients, measure, stained
from studies.pages import Section, page
from tests.made import TRAIN, Capture, Patch, command, make_data

CLASSES = ["a", "b"]


def write(folder: Path, images: list[np.ndarray]) -> list[Path]:
    """Write images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def table(count: int = 200, **columns: Any) -> pd.DataFrame:
    """A table of measured images of two classes in train and valid, all measures random but the given."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    lists = np.where(np.arange(count) < 0.75 * count, "train", "valid")
    names = [f"./{name}/{number}.png" for number, name in enumerate(lists)]
    known = {"list": lists, "row": np.arange(count) + 2, "image": names, "label": labels}
    known |= {"class": np.array(CLASSES)[labels]}
    return pd.DataFrame(known | {name: rng.normal(100, 5, count) for name in MEASURES} | columns)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 7), st.integers(0, 2**32))
def test_the_hash_turns_with_the_image(turn: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    signs = np.sign(coefficients(image))[None]
    turned = coefficients(np.ascontiguousarray(duplicates.turned(image, turn)))
    clear = np.abs(turned) > 2  # rounding to grey levels may change the sign of a coefficient near 0
    assert (duplicates.turned_signs(signs, turn)[0] == np.sign(turned))[clear].all() and clear.sum() > SIGNS / 2


def test_turned_and_compressed_copies_are_found(tmp_path: Path) -> None:
    """Of 50 copies among 150 images at least 48, and no other pair."""
    rng = np.random.default_rng(0)
    originals = [draw(0, "train", number)[0] for number in range(100)]
    paths = write(tmp_path, originals)
    for number in range(50):
        copy = duplicates.turned(originals[number], int(rng.integers(8)))
        path = tmp_path / f"copy_{number}.jpg"
        Image.fromarray(np.ascontiguousarray(copy)).save(path, quality=int(rng.integers(40, 90)))
        paths.append(path)
    signs = np.stack([measure(path, 0)[len(MEASURES) :] for path in paths])
    pairs, counts, _ = duplicates.near_pairs(signs, paths, [str(path) for path in paths])
    assert counts.sum() == 150 * 149 / 2
    found = set(zip(pairs["first"], pairs["second"], strict=True))
    planted = {(number, 100 + number) for number in range(50)}
    assert len(found & planted) >= 48 and found <= planted
    assert (pairs["kind"] == "near").all()
    groups = duplicates.groups(pairs, 150)
    assert all((groups[first] == groups[second]) == ((first, second) in found) for first, second in planted)


def test_two_round_cells_on_black_are_no_duplicates(tmp_path: Path) -> None:
    """Discs of one shape with different grain; a compressed copy of one is."""
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 47.5, x - 47.5) < 30
    grain = [gaussian_filter(np.random.default_rng(seed).normal(0, 60, (96, 96)), 3) for seed in (0, 1)]
    images = [(disc * (110 + 2 * one).clip(40, 200)).astype(np.uint8)[..., None].repeat(3, axis=2) for one in grain]
    paths = write(tmp_path, images)
    Image.fromarray(images[0]).save(tmp_path / "copy.jpg", quality=80)
    greys = [duplicates.small_grey(path) for path in (*paths, tmp_path / "copy.jpg")]
    (first, least), (second, _), (copy, _) = greys
    assert (first * copy).sum() > 0.95 > least > 0.5 > (first * second).sum() and least == duplicates.ALIKE_CELLS
    plain = [one - one.mean() for one in map(duplicates.shrunk, (images[0][..., 0], images[1][..., 0]))]
    assert np.corrcoef(plain[0].ravel(), plain[1].ravel())[0, 1] > 0.9  # as they would be with the black around them


def test_identical_files_are_found_among_few_images(tmp_path: Path) -> None:
    image = draw(0, "train", 0)[0]
    paths = write(tmp_path, [image, draw(0, "train", 1)[0], image])
    signs = np.stack([measure(path, 0)[len(MEASURES) :] for path in paths])
    pairs, _, _ = duplicates.near_pairs(signs, paths, ["x", "y", "x"])
    assert pairs[["first", "second", "kind"]].to_numpy().tolist() == [[0, 2, "identical"]]


def test_a_hash_that_tells_nothing_apart_gives_no_flood_of_pairs(tmp_path: Path, monkeypatch: Patch) -> None:
    """300 images of one colour, each another: 44,850 pairs have distance 0."""
    monkeypatch.setattr(duplicates, "MOST", 1000)
    grey = [np.full((16, 16, 3), number % 256, np.uint8) for number in range(300)]
    paths = write(tmp_path, grey)
    signs = np.stack([measure(path, 0)[len(MEASURES) :] for path in paths])
    contents = [str(number % 256) for number in range(300)]
    pairs, counts, limit = duplicates.near_pairs(signs, paths, contents)
    assert limit < 0 and len(pairs) == 44 and set(pairs["kind"]) == {"identical"} and counts[0] == 256 * 255 / 2


def test_measurements_of_known_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(rng.normal(120, 10, (200, 200)), 0, 255).astype(np.uint8)
    disc = np.full((100, 100, 3), 240, np.uint8)
    disc[30:70, 40:60] = (127, 31, 255)
    paths = write(tmp_path, [np.repeat(noisy[..., None], 3, axis=2), disc, np.full((20, 40, 3), 77, np.uint8)])
    first, second, third = (dict(zip(MEASURES, measure(path, 0), strict=False)) for path in paths)
    assert first["noise"] == pytest.approx(10, rel=0.05) and first["brightness"] == pytest.approx(119.5, abs=0.2)
    assert first["contrast"] == pytest.approx(10, rel=0.02) and first["sharpness"] == pytest.approx(20 * 100, rel=0.05)
    assert second["share"] == pytest.approx(8) and stained(disc).sum() == 800
    assert second["stain"] == pytest.approx(np.mean([np.log10(2), np.log10(8), 0]), abs=0.01)
    assert second["hue"] == pytest.approx(265.7 - 360, abs=0.5)  # colorsys.rgb_to_hls gives 265.7 for this purple
    assert (third["width"], third["height"]) == (40, 20) and third["share"] == third["noise"] == third["stain"] == 0


def test_a_brighter_class_is_named() -> None:
    images = table()
    assert findings.shortcuts(images, CLASSES)[0] == []
    images.loc[images["label"] == 1, "brightness"] += 40
    said, numbers = findings.shortcuts(images, CLASSES)
    assert "(cross-validated): brightness 100.0 %" in said[0].text and "the largest class has 50.0 %" in said[0].text
    assert [one.text.split(" is told")[0] for one in said[1:]] == CLASSES
    same = images.assign(**dict.fromkeys(MEASURES, 1.0))
    assert findings.shortcuts(same, CLASSES)[0] == []
    assert "by brightness alone" in said[2].text and numbers.set_index("measure").loc["brightness", "b"] == 1


def test_uneven_classes_and_lists_are_named() -> None:
    images = table()
    assert findings.balance(images, CLASSES) == []
    fewer = images[(images["label"] == 0) | (images["row"] % 10 == 1)]
    assert "75 images of a and 15 of b" in findings.balance(fewer, CLASSES)[0].text
    shifted = images[(images["list"] == "train") | (images["label"] == 0)]
    assert "a is 50.0 % of train.csv and 100.0 % of valid.csv" in findings.balance(shifted, CLASSES)[0].text


def test_sizes_background_and_outliers_are_named() -> None:
    images = table(width=450.0, height=450.0)
    assert not findings.sizes(images) and not findings.background(images)
    images.loc[7, ["width", "height"]] = (900, 300)
    images.loc[9, "share"] = 0.2
    images.loc[11, "sharpness"] = 900
    assert "Rare sizes: 1 image, 900 × 300 px (1); most are 450 × 450 px." in findings.sizes(images)[0].text
    assert "1 image, train.csv line 11." in findings.background(images)[0].text
    varied = table(width=np.arange(200.0), height=300.0)
    assert (
        "The sizes vary: 200 different ones, from 0 to 199 px wide and 300 to 300 px high"
        in findings.sizes(varied)[0].text
    )
    far = findings.outliers(images, CLASSES)
    assert {(7, "width"), (7, "height"), (9, "share"), (11, "sharpness")} == set(
        zip(far.index, far["measure"], strict=True)
    )


def test_duplicates_across_lists_and_contradictions_are_named() -> None:
    pairs = pd.DataFrame({"first": [0, 1, 2], "second": [199, 3, 5], "kind": ["identical", "near", "near"]})
    texts = [one.text for one in findings.duplicates(table(), pairs)]
    assert texts[0] == "1 pair of byte-identical files, of them 1 between train and valid."
    assert texts[1] == "2 pairs of near duplicates, each within one list."
    assert texts[2].startswith("2 pairs of duplicates have different labels: train.csv line 2, train.csv line 4")


def test_patients_on_both_sides_are_named() -> None:
    images = table(8, image=[f"a/UID_{patient}_1_1_all.bmp" for patient in (1, 1, 2, 2, 3, 3, 3, "H4")])
    assert "Patients in several lists: 1, 3." in findings.patients(images)[0].text
    assert not findings.patients(table())


def test_flipped_labels_are_among_the_suspects() -> None:
    """Of 3 % wrong labels at least 60 % are among as many suspects, and the images are predicted without themselves."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1000)
    values = rng.normal(0, 1, (1000, 40))
    values[:, :4] += 4 * np.eye(4)[labels]
    given_labels = labels.copy()
    flipped = rng.choice(1000, 30, replace=False)
    given_labels[flipped] = (labels[flipped] + rng.integers(1, 4, 30)) % 4
    probabilities = suspects.out_of_fold(values, given_labels, np.arange(1000), 4)
    order, wrong = suspects.suspicious(given_labels, probabilities)
    assert len(set(order[:30]) & set(flipped)) >= 18 and 15 <= wrong <= 60
    # A copy of an image with a wrong label would vouch for it, were it not in the same fold.
    twice, groups = np.concatenate([values, values[flipped]]), np.concatenate([np.arange(1000), flipped])
    both = np.concatenate([given_labels, given_labels[flipped]])
    order, _ = suspects.suspicious(both, suspects.out_of_fold(twice, both, groups, 4))
    assert len(set(order[:60]) & {*flipped, *range(1000, 1030)}) >= 36


@pytest.fixture
def data(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The tiny data set in the working directory; its figures are drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "STORES", tmp_path / ".store")
    return make_data(tmp_path / "csv" / "tiny")


def test_the_whole_way(data: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """The page holds everything; the second time nothing is measured; without images there are none."""
    first = sorted((data / "train").glob("*"))[0]
    (data / "valid" / "0.png").write_bytes(first.read_bytes())
    command(explore, "--data", "tiny", "--features", "hog")
    output = capsys.readouterr().out
    assert "between train and valid" in output and "measurements of train.csv: 24 images" in output
    folder = Path("report", "tiny")
    page = (folder / "explore.html").read_text()
    assert "between train and valid" in page and "<h2>Labels</h2>" in page and "data:image/png" in page
    assert not re.search(r'(src|href)="(?!data:)', re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))
    pairs = pd.read_csv(folder / "explore_duplicates.csv")
    assert {"identical"} <= set(pairs["kind"]) and "valid" in set(pairs["list_2"])
    assert (folder / "explore_samples.png").is_file() and len(pd.read_csv(folder / "explore_shortcuts.csv"))
    command(explore, "--data", "tiny", "--features", "hog")
    output = capsys.readouterr().out
    assert "measurements of" not in output and "fold 1" not in output
    assert "near pairs: kept from an earlier start" in output and "out of fold: kept" in output
    command(explore, "--data", "tiny", "--features", "none", "--no-images")
    assert "<h2>Labels</h2>" not in (folder / "explore.html").read_text()
    assert sorted(path.stem for path in folder.glob("*.png")) == [
        "explore_classes",
        "explore_distances",
        "explore_measures",
    ]
    assert "const thumbnails = {};" in (folder / "explore.html").read_text()


def test_unreadable_images_are_one_sentence_and_nothing_is_written(data: Path) -> None:
    (data / "train" / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 image cannot be used:\n  train\.csv line 5: .*not an image"):
        command(explore, "--data", "tiny", "--features", "none")
    assert not Path("report", "tiny", "explore.html").exists()


def test_too_few_images_of_a_class_are_said_on_the_page(data: Path, capsys: Capture) -> None:
    lines = (data / "train.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if line.endswith(",0")] + [line for line in lines if line.endswith(",1")][:2]
    (data / "train.csv").write_text("\n".join([lines[0], *kept, ""]))
    (data / "valid.csv").unlink()
    command(explore, "--data", "tiny", "--features", "hog")
    assert "labels: not searched, a class has fewer than 5 different images" in capsys.readouterr().out
    assert "Wrong labels were not searched for" in Path("report", "tiny", "explore.html").read_text()
    assert len(kept) < TRAIN


def test_wrong_labels_are_searched_among_different_images_only() -> None:
    labels = np.repeat([0, 1], 8)
    assert explore.cannot_search(labels, np.arange(16)) == ""
    assert "fewer than 5" in explore.cannot_search(
        labels, np.repeat(np.arange(8), 2)
    )  # four different ones of each class
    assert "of one class" in explore.cannot_search(labels[:8], np.arange(8))


def test_too_little_memory_is_one_sentence(data: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(explore, "available_memory", lambda: 0.5)
    with pytest.raises(UserError, match=r"HOG of 36 images: .* needs 1\.0 GiB of memory, and 0\.5 GiB are available"):
        command(explore, "--data", "tiny", "--features", "hog")


def test_results_are_kept_until_the_arguments_or_the_code_change(
    data: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    def result(number: int) -> int:
        print("computed")
        return 2 * number

    source = [""]
    monkeypatch.setattr(features.inspect, "getsource", lambda _: source[0])
    monkeypatch.setattr(features.inspect, "getmodule", lambda _: features)
    said = []
    for number, source[0] in ((3, "first"), (3, "first"), (4, "first"), (4, "second")):
        assert features.kept(result, "tiny")(number) == 2 * number
        said.append(capsys.readouterr().out.strip())
    assert said == ["computed", "result: kept from an earlier start", "computed", "computed"]
    assert len([*(features.STORES / "tiny" / "studies").iterdir()]) == 1


def test_texts_are_escaped() -> None:
    html = page("<b>title", "<i>lead", [Section("<u>", ["<s>"], [("<q>", "<em>")], pictures=[(b"", '"<alt>')])], {})
    assert not re.search("<(b|i|u|s|q|em|alt)>", html) and "&lt;q&gt;" in html and "&#34;&lt;alt" in html
