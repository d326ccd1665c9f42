"""Look at a feature space: where the classes are, what is near what, and how far a map in two dimensions can be trusted.

    python -m studies.embed --data pbc8 --features resnet18
    python -m studies.embed --data pbc8 --features resnet18 --queries wrong  # neighbours of misclassified images
    python -m studies.embed --data all4 --features efficientnet_lite0 --no-images

Features are those of studies.heads, of the images of train.csv and valid.csv. Writes into report/<data>/: embed_<features>.html,
a page that needs no network; embed_<features>_*.png; embed_<features>_map.csv, embed_<features>_clusters.csv and
embed_<features>.json. All random numbers have fixed seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.errors import UserError
from lab.options import add_machine, add_places, add_quiet, add_report, parse, positive
from models import catalog
from studies import bases

NAMES = ("hog", *catalog.names(), *bases.NAMES)


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Look at a feature space.")
    help_features = "hog, a model with a best checkpoint, or a network with ImageNet weights, as in studies.heads"
    parser.add_argument("--features", required=True, choices=NAMES, metavar="NAME", help=help_features)
    parser.add_argument(
        "--size", type=int, help="side of the input of a network with ImageNet weights, px (default: 224)"
    )
    parser.add_argument("--weights-file", type=Path, metavar="FILE", help="state dict of a torchvision network")
    help_queries = (
        "images of valid.csv whose neighbours are shown: random, wrong (misclassified by the model or a head), or "
    )
    help_queries += "paths as in "
    parser.add_argument(
        "--queries", nargs="+", default=["random"], metavar="IMAGE", help=f"{help_queries}the list (default: random)"
    )
    parser.add_argument(
        "--images", type=positive, default=2000, help="images of the maps, at most 2,000 (default: 2000)"
    )
    parser.add_argument("--no-images", action="store_true", help="put no image into the page and the figures")
    add_places(parser)
    add_report(parser)
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path or size before torch is imported."""
    from lab.data.lists import find_folder

    bases.check_features(args, find_folder(args.data, args.root, ["train", "valid"]))


ARGS = parse(arguments, __name__, check_paths)

import json
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects
from plotly.subplots import make_subplots
from sklearn.preprocessing import StandardScaler

from lab.data.images import read_image
from lab.data.lists import DataSet, read_data_set, read_lists
from lab.errors import run
from lab.evaluation.metrics import wilson
from lab.evaluation.valid_table import read_predictions
from lab.figures.embedding import COLOURS, clusters_figure, maps_figure, variance_figure
from lab.figures.exploration import rows_figure
from lab.figures.style import PHOTOS
from lab.files import check_writable
from lab.hardware import choose_hardware
from lab.text import counted, percent, shown
from studies import projection
from studies.features import open_source, stored_features
from studies.pages import MOST_THUMBNAILS, Output, Section, page, small, thumbnail

QUERIES, NEIGHBOURS, SEED = 6, 5, 0
QUERIES_AT_ONCE = 512  # in the search for the nearest image


@dataclass(frozen=True)
class Space:
    """Features and images of train.csv and valid.csv.

    ``images`` has a row for each image: list, image, label, class, path and brightness, and whether the model predicts it
    rightly: right, wrong, or unknown. ``values`` are the features [N, D].
    """

    title: str
    data: DataSet
    images: pd.DataFrame
    values: np.ndarray


def main(args: argparse.Namespace) -> None:
    """Compute the features, then components, maps, clusters and neighbours."""
    data = read_data_set(args.data, args.root)
    out = Output(args.report / data.name, f"embed_{args.features}", not args.no_images)
    check_writable(out.folder)
    out.remove_old("neighbours.png")
    space = open_space(args, data)
    count, width = space.values.shape
    print(f"components of {counted(count, 'image')} × {counted(width, 'feature')}", flush=True)
    components = projection.principal_components(space.values)
    about: dict[str, Any] = {"features": args.features, "images": count, "width": width}
    sections, thumbnails = maps_section(space, components.scores, args.images, out, about)
    sections.append(variance_section(space, components, out, about))
    sections.append(clusters_section(space, components.scores, out))
    sections.append(neighbours_section(space, args.queries, out, about))
    lead = f"{counted(count, 'image')} of train.csv and valid.csv; {counted(width, 'feature')}."
    out.write("html", page(f"Features: {space.title}", lead, sections, thumbnails))
    out.write("json", json.dumps(about, indent=2) + "\n")
    print(f"written to {out.folder}: {', '.join(out.files)}")


def open_space(args: argparse.Namespace, data: DataSet) -> Space:
    """Compute or open the features, and describe the images."""
    lists = read_lists(data, ("train", "valid"))
    hardware = choose_hardware(args.device, args.precision)
    source = open_source(args.features, data, lists["train"], args.weights, hardware, args.size, args.weights_file)
    values = [stored_features(source, data.name, name, images).values for name, images in lists.items()]
    tables = []
    for name, images in lists.items():
        columns = {"list": name, "image": images.ids, "label": images.labels, "path": images.paths}
        tables.append(pd.DataFrame(columns | {"prediction": "unknown"}))
    folder = args.report / data.name
    # Of a model, or else of the first head that studies.heads fitted on these features.
    own, heads = folder / f"valid_{args.features}.csv", sorted(folder.glob(f"valid_{args.features}_*.csv"))
    predicted = own if own.is_file() or not heads else heads[0]
    if predicted.is_file():
        answers = read_predictions(predicted, "evaluate.py or studies.heads")
        if answers.ids == lists["valid"].ids:
            print(f"right or wrong: by the predictions in {predicted}")
            right = answers.probabilities.argmax(axis=1) == answers.labels
            tables[1]["prediction"] = np.where(right, "right", "wrong")
    table = pd.concat(tables, ignore_index=True)
    table["class"] = [data.classes[label] for label in table["label"]]
    check_queries(args.queries, table, predicted)
    return Space(f"{source.title} on {data.name}", data, table, np.concatenate(values))


def check_queries(asked: list[str], images: pd.DataFrame, predicted: Path) -> None:
    """Raise :class:`UserError` for images that are not in valid.csv, or if nothing says which are misclassified."""
    valid = images[images["list"] == "valid"]
    if asked == ["wrong"] and not (valid["prediction"] != "unknown").any():
        raise UserError(
            f"--queries wrong needs {predicted}, the predictions of this valid.csv: run evaluate.py or studies.heads."
        )
    for name in asked if asked not in (["random"], ["wrong"]) else []:
        if name not in set(valid["image"]):
            raise UserError(f"--queries {shown(name)}: valid.csv has no such path; write it as in the list.")


# ---- sections of the page ------------------------------------------------------------------------------------------------------


def maps_section(
    space: Space, scores: np.ndarray, most: int, out: Output, about: dict[str, Any]
) -> tuple[list[Section], dict[int, str]]:
    """Maps of up to ``most`` images, and the thumbnails of the page."""
    rng = np.random.default_rng(SEED)
    mapped = np.sort(rng.permutation(len(scores))[: min(most, MOST_THUMBNAILS)])
    images, part = space.images.iloc[mapped], scores[mapped]
    kinds = {"t-SNE": projection.tsne} | ({"UMAP": projection.umap} if projection.has_umap() else {})
    maps = {"PCA": part[:, :2]}
    texts = [
        f"{counted(len(mapped), 'image')} by their first {scores.shape[1]} principal components. A map in two dimensions bends "
        "the space: near points are mostly near, distances between groups and the size of a group mean nothing."
    ]
    about["maps"] = {}
    for name, draw in kinds.items():
        print(f"{name}: four maps of {counted(len(mapped), 'image')}", flush=True)
        maps[name] = draw(part, None)
        shared, trust = projection.stability(part, draw)
        own = projection.trust(part, maps[name])
        about["maps"][name] = {"trustworthiness": own, "shared_neighbours": shared, "trustworthiness_random": trust}
        texts.append(
            f"{name}: trustworthiness {own:.3f}, where 1 means that all neighbours are near in the features. From three "
            f"random starts: {trust:.3f}, and {percent(shared, 0)} of an image's {projection.NEAREST} nearest neighbours are the "
            "same in two maps."
        )
    if "UMAP" not in maps:
        texts.append("UMAP: left out, it needs `pip install -r requirements-extras.txt -c constraints.txt`.")
        print(texts[-1])
    figure = maps_figure(maps, images["label"].to_numpy(), space.data.classes, space.title)
    out.picture("maps", figure, "maps of the images, coloured by class")
    table = images[["list", "image", "class", "prediction"]]
    for name, points in maps.items():
        key = name.lower().replace("-", "")
        table = table.assign(**{f"{key}_1": points[:, 0], f"{key}_2": points[:, 1]})
    out.table("map", table)
    thumbnails, brightness = {}, np.zeros(len(mapped))
    for row, index in enumerate(mapped.tolist()):
        image = read_image(space.images["path"][index])
        brightness[row] = image.mean()
        if out.pictures:
            thumbnails[index] = thumbnail(image)
    texts.append(
        "Click on a name to hide it, twice to show it alone" + ("; point at an image to see it" * out.pictures) + "."
    )
    plot = maps_plot(maps, images.assign(brightness=brightness), space.data.classes)
    return [Section("Maps", texts, plots=[plot])], thumbnails


def maps_plot(maps: dict[str, np.ndarray], images: pd.DataFrame, classes: list[str]) -> graph_objects.Figure:
    """The maps side by side, coloured by class, list, prediction or brightness, as a menu chooses."""
    figure = make_subplots(1, len(maps), subplot_titles=list(maps), horizontal_spacing=0.02)
    palette = ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in colour)) for colour in COLOURS]
    groups = {
        "class": classes,
        "list": ["train", "valid"],
        "prediction": ["right", "wrong", "unknown"],
        "brightness": ["all"],
    }
    shown_by: list[str] = []
    for colouring, names in groups.items():
        for number, name in enumerate(names):
            chosen = np.ones(len(images), bool) if colouring == "brightness" else (images[colouring] == name).to_numpy()
            for column, points in enumerate(maps.values(), 1):
                marker: dict[str, Any] = {"size": 5, "opacity": 0.75, "color": palette[number % 10]}
                marker["symbol"] = ("circle", "triangle-up", "square", "diamond")[number // 10 % 4]
                if colouring == "brightness":
                    marker |= {
                        "color": images["brightness"].tolist(),
                        "colorscale": "Viridis",
                        "showscale": column == 1,
                    }
                figure.add_scattergl(
                    x=points[chosen, 0].round(3).tolist(),
                    y=points[chosen, 1].round(3).tolist(),
                    customdata=images.index[chosen].tolist(),
                    text=[
                        f"{one} {PurePosixPath(path).name}, {group}"
                        for one, path, group in images.loc[chosen, ["list", "image", "class"]].to_numpy().tolist()
                    ],
                    hovertemplate="%{text}<extra></extra>",
                    mode="markers",
                    marker=marker,
                    name=escape(name),
                    legendgroup=f"{colouring} {name}",
                    showlegend=column == 1 and colouring != "brightness",
                    visible=colouring == "class",
                    row=1,
                    col=column,
                )
                shown_by.append(colouring)
    buttons = [
        {"label": f"colour: {one}", "method": "update", "args": [{"visible": [other == one for other in shown_by]}]}
        for one in groups
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.18, "yanchor": "top"}
    figure.update_xaxes(showticklabels=False).update_yaxes(showticklabels=False)
    figure.update_layout(template="plotly_white", height=560, updatemenus=[menu], margin={"t": 90, "l": 10, "r": 10})
    figure.update_layout(legend={"orientation": "h", "y": -0.05, "itemsizing": "constant"})
    return figure


def variance_section(space: Space, components: projection.Components, out: Output, about: dict[str, Any]) -> Section:
    """How many components the features need."""
    needed = {share: components.needed(share / 100) for share in (95, 99)}
    about |= {f"components_{share}": count for share, count in needed.items()}
    text = (
        f"{needed[95]:,} components have 95 % of the variance of the standardised features, {needed[99]:,} have 99 %."
    )
    print(text)
    figure = variance_figure(components.shares, needed, space.title)
    return Section("Principal components", [text], pictures=[out.picture("variance", figure, "explained variance")])


def clusters_section(space: Space, scores: np.ndarray, out: Output) -> Section:
    """Whether groups in the features are the classes."""
    classes, labels = space.data.classes, space.images["label"].to_numpy()
    table, cluster = projection.clusters(scores, labels, len(classes))
    out.table("clusters", table)
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, cluster), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    order = np.argsort(
        shares.argmax(axis=0), kind="stable"
    )  # clusters in the order of the classes that they hold most of
    best = table.iloc[int(table["ari"].to_numpy().argmax())]
    text = (
        f"K-means on the first {scores.shape[1]} components. It agrees best with the classes for {int(best['clusters'])} "
        f"clusters: adjusted Rand index {best['ari']:.3f} (0 by chance, 1 if equal); with shuffled labels "
        f"{best['ari_shuffled']:.3f}."
    )
    print(text)
    figure = clusters_figure(table, counts[:, order], classes, space.title)
    return Section("Clusters", [text], pictures=[out.picture("clusters", figure, "clusters against classes")])


def neighbours_section(space: Space, asked: list[str], out: Output, about: dict[str, Any]) -> Section:
    """The most similar images of some, and how often the most similar image of the other list has the same class."""
    images, labels = space.images, space.images["label"].to_numpy()
    points = projection.unit(StandardScaler().fit_transform(space.values))
    train, valid = (np.flatnonzero(images["list"] == name) for name in ("train", "valid"))
    texts = []
    for queries, among, name in ((valid, train, "valid"), (train, valid, "train")):
        blocks = [queries[begin : begin + QUERIES_AT_ONCE] for begin in range(0, len(queries), QUERIES_AT_ONCE)]
        found = np.concatenate([projection.similar(points, block, among, 1)[0][:, 0] for block in blocks])
        hits = int((labels[found] == labels[queries]).sum())
        low, high = wilson(hits, len(queries))
        other = "train" if name == "valid" else "valid"
        about[f"nearest_{name}"] = hits / len(queries)
        texts.append(
            f"{percent(hits / len(queries))} ({100 * low:.2f}–{100 * high:.2f}) of the images of {name}.csv have the class of "
            f"the most similar image of {other}.csv."
        )
        print(texts[-1])
    texts.append(
        "Similarity is the cosine of the standardised features: a figure of merit of a feature, without a classifier."
    )
    if not out.pictures:
        return Section("Neighbours", texts)
    rng, rows = np.random.default_rng(SEED), []
    if asked in (["random"], ["wrong"]):
        known = valid if asked == ["random"] else np.flatnonzero(images["prediction"] == "wrong")
        chosen = rng.permutation(known)[:QUERIES]
        if not len(chosen):
            return Section("Neighbours", [*texts, "No image is misclassified."])
    else:
        chosen = valid[images["image"].iloc[valid].isin(asked)]
    near, cosines = projection.similar(points, chosen, np.arange(len(images)), NEIGHBOURS)
    captions = []
    for query, others, values in zip(chosen.tolist(), near.tolist(), cosines.tolist(), strict=True):
        shown_images = [small(read_image(images["path"][index])) for index in (query, *others)]
        rows.append((f"{images['class'][query]}\n{PurePosixPath(images['image'][query]).name}", shown_images))
        captions.append(
            ["", *(f"{images['class'][index]}, {value:.2f}" for index, value in zip(others, values, strict=True))]
        )
    figure = rows_figure(
        rows, ["image", *(f"neighbour {n}" for n in range(1, NEIGHBOURS + 1))], f"Neighbours by {space.title}", captions
    )
    return Section(
        "Neighbours", texts, pictures=[out.picture("neighbours", figure, "images and their nearest neighbours", PHOTOS)]
    )


if __name__ == "__main__":
    run(main, ARGS)
