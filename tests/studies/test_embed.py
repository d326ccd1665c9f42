"""A feature space: components against scikit-learn, clusters and neighbours of planted groups, and the whole way."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from lab.data.lists import read_data_set, read_list
from lab.errors import UserError
from lab.evaluation.valid_table import write_predictions
from studies import embed, features, projection
from tests.made import TRAIN, VALID, Capture, Patch, command, make_data


def grouped(count: int = 300, width: int = 20, apart: float = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features of three groups that are far apart, and the group of each."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    values = rng.normal(0, 1, (count, width))
    values[:, :3] += apart * np.eye(3)[labels]
    return values.astype(np.float32), labels


@pytest.mark.parametrize(("count", "width"), [(120, 30), (40, 100), (30, 5000), (2600, 2500)])
def test_components_are_those_of_scikit_learn(count: int, width: int) -> None:
    """By the covariance and by the products of all pairs of images; the signs of components are arbitrary."""
    rng = np.random.default_rng(1)
    values = (rng.normal(0, 1, (count, width)) @ np.diag(np.linspace(3, 0.1, width))).astype(np.float32)
    values[:, 3] = 7  # a constant feature
    values[:, 1] = values[:, 0] + 0.1 * values[:, 1]
    found = projection.principal_components(values)
    kept = min(projection.COMPONENTS, count - 1, width)
    expected = PCA(kept, svd_solver="full").fit(StandardScaler().fit_transform(values.astype(float)))
    np.testing.assert_allclose(found.shares[:kept], expected.explained_variance_ratio_, atol=1e-5)
    scores = expected.transform(StandardScaler().fit_transform(values.astype(float)))
    first = min(kept, 5)
    np.testing.assert_allclose(np.abs(found.scores[:, :first]), np.abs(scores[:, :first]), atol=2e-2)
    for share in (0.5, 0.95):
        number = found.needed(share)
        assert found.shares[:number].sum() >= share - 1e-6 > found.shares[: number - 1].sum() - 2e-6


def test_planted_groups_are_clusters_and_shuffled_labels_are_not() -> None:
    values, labels = grouped()
    table, cluster = projection.clusters(projection.principal_components(values).scores, labels, 3)
    best = table.set_index("clusters").loc[3]
    assert best["ari"] > 0.95 and best["nmi"] > 0.9 and best["silhouette"] > 0.05
    assert abs(best["ari_shuffled"]) < 0.05 and len(set(cluster[labels == 1])) <= 2


def test_similar_images_are_those_with_the_largest_cosine() -> None:
    points = projection.unit(np.random.default_rng(0).normal(size=(50, 8)))
    near, cosines = projection.similar(points, np.array([3, 40]), np.arange(50), 5)
    for query, others, values in zip((3, 40), near, cosines, strict=True):
        products = points @ points[query]
        products[query] = -1
        assert others.tolist() == np.argsort(-products)[:5].tolist()
        np.testing.assert_allclose(values, products[others])


def test_a_map_that_keeps_groups_is_trusted_and_noise_is_not() -> None:
    values, _ = grouped(150)
    shared, trust = projection.stability(values, projection.tsne)
    assert 0.3 < shared < 1 and trust > 0.85
    chance, poor = projection.stability(values, lambda scores, seed: np.random.default_rng(seed).normal(size=(150, 2)))
    assert chance < 0.2 and 0.4 < poor < 0.6
    assert np.array_equal(projection.tsne(values, 1), projection.tsne(values, 1))


@pytest.mark.skipif(find_spec("umap") is None, reason="needs umap-learn: requirements-extras.txt")
@pytest.mark.filterwarnings("ignore")  # UMAP warns of few images and of one thread
def test_umap_is_repeatable_and_keeps_groups() -> None:
    values, labels = grouped(90)
    points = projection.umap(values, None)
    assert np.array_equal(points, projection.umap(values, None)) and points.shape == (90, 2)
    nearest = projection.nearest(points)
    assert (labels[nearest] == labels[:, None]).mean() > 0.9


@pytest.fixture
def data(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The tiny data set in the working directory, without UMAP, whose first call compiles for seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "STORES", tmp_path / ".store")
    monkeypatch.setattr(projection, "has_umap", lambda: False)
    return make_data(tmp_path / "csv" / "tiny")


def test_the_whole_way(data: Path, capsys: Capture) -> None:
    valid = read_list(read_data_set("csv/tiny", None), "valid", labelled=True)
    write_predictions(Path("report/tiny/valid_hog.csv"), valid, np.eye(2)[[1, *valid.labels[1:]]])  # the first is wrong
    command(embed, "--data", "tiny", "--features", "hog", "--queries", "wrong")
    output = capsys.readouterr().out
    assert (
        "UMAP: left out" in output and "of the images of valid.csv have the class of the most similar image" in output
    )
    folder = Path("report", "tiny")
    about = json.loads((folder / "embed_hog.json").read_text())
    assert (about["images"], about["width"]) == (TRAIN + VALID, 44_100) and set(about["maps"]) == {"t-SNE"}
    table = pd.read_csv(folder / "embed_hog_map.csv")
    assert list(table) == ["list", "image", "class", "prediction", "pca_1", "pca_2", "tsne_1", "tsne_2"]
    assert (table["prediction"] == "wrong").sum() == 1 and len(table) == TRAIN + VALID
    page = (folder / "embed_hog.html").read_text()
    assert "colour: prediction" in page and re.search(r'const thumbnails = {"0": "/9j', page)
    assert {path.name for path in folder.glob("embed_*.png")} == {
        f"embed_hog_{name}.png" for name in ("maps", "variance", "clusters", "neighbours")
    }
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    command(embed, "--data", "tiny", "--features", "hog", "--queries", "wrong")
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
    command(embed, "--data", "tiny", "--features", "hog", "--images", "10", "--no-images")
    assert "const thumbnails = {};" in (folder / "embed_hog.html").read_text()


def test_wrong_queries_are_one_sentence(data: Path) -> None:
    with pytest.raises(UserError, match=r"--queries wrong needs report/tiny/valid_hog\.csv"):
        command(embed, "--data", "tiny", "--features", "hog", "--queries", "wrong")
    with pytest.raises(UserError, match=r"--queries \./none\.png: valid\.csv has no such path"):
        command(embed, "--data", "tiny", "--features", "hog", "--queries", "./none.png")
    with pytest.raises(UserError, match="are for networks with ImageNet weights, not for hog"):
        command(embed, "--data", "tiny", "--features", "hog", "--size", "128")
