"""Look into a data set before training: what its images are, what is wrong with them, and what a network could learn by mistake.

    python -m studies.explore --data pbc8
    python -m studies.explore --data pbc8 --features none         # without the search for wrong labels, which takes minutes
    python -m studies.explore --data pbc8 --no-images             # no image in page and figures, for data that must not be shown

Writes into report/<data>/: explore.html, a page that needs no network; its figures explore_*.png; and the tables
explore_outliers.csv, explore_duplicates.csv, explore_shortcuts.csv and explore_suspects.csv. Measurements and features are
kept for the next start.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.errors import UserError
from lab.options import add_machine, add_places, add_quiet, add_report, parse
from models.catalog import names
from studies.bases import NAMES, installed

FEATURES = ("none", "hog", *names(), *NAMES)


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Look into a data set before training.")
    add_places(parser)
    add_report(parser)
    help_features = (
        "what wrong labels are searched with: none, hog, a trained model, or a network with ImageNet weights "
    )
    help_features += f"(default: {NAMES[0]} if its packages are installed, else hog)"
    parser.add_argument("--features", choices=FEATURES, help=help_features, metavar="FEATURES")
    parser.add_argument("--weights-file", type=Path, help="ImageNet weights, as in studies.heads")
    parser.add_argument("--no-images", action="store_true", help="put no image into the page and the figures")
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Choose the features, and report a wrong path before anything slow is imported."""
    from importlib.util import find_spec

    from lab.checkpoints.headers import check_chosen
    from lab.data.lists import data_name, find_folder
    from studies.bases import check_base

    folder = find_folder(args.data, args.root, ("train",))
    if args.features is None:
        args.features = NAMES[0] if installed(NAMES[0]) else "hog"
    if args.features != "none" and find_spec("cleanlab") is None:
        raise UserError(
            "the search for wrong labels needs `pip install -r requirements-extras.txt -c constraints.txt`; --features none "
            "leaves it out."
        )
    if args.features in names():
        check_chosen(args.weights / data_name(folder), args.features)
    elif args.features in NAMES:
        check_base(args.features, args.weights_file)


ARGS = parse(arguments, __name__, check_paths)

import itertools
import time
from html import escape

import numpy as np
import pandas as pd
from PIL import Image
from plotly import graph_objects
from plotly.subplots import make_subplots
from skimage.feature import canny, hog

from lab.data.images import read_image
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.errors import run
from lab.figures.exploration import (
    LISTS,
    boxes_figure,
    classes_figure,
    distances_figure,
    gallery_figure,
    rows_figure,
)
from lab.figures.style import PHOTOS
from lab.files import check_writable
from lab.hardware import choose_hardware
from lab.sources.folders import fingerprints
from lab.text import counted, duration, percent, shown
from studies import duplicates, findings
from studies import suspects as labels_search
from studies.features import SIDE, Source, available_memory, kept, open_source, stored_features
from studies.measurements import MEASURES, measurements_source, stained
from studies.pages import MOST_THUMBNAILS, Output, Section, page, small, thumbnail

SAMPLES, PAIRS, SUSPECTS, SEED = 8, 12, 20, 0  # images of a class, pairs and labels that are drawn


def main(args: argparse.Namespace) -> None:
    """Measure all images, write the findings, and draw them."""
    began = time.perf_counter()
    data = read_data_set(args.data, args.root)
    lists = all_lists(data)
    out = Output(args.report / data.name, "explore", not args.no_images)
    check_writable(out.folder)
    out.remove_old(*(f"{name}.png" for name in ("samples", "edges", "duplicates", "suspects")), "suspects.csv")
    images = measured(data, lists)
    paths = [path for one in lists.values() for path in one.paths]
    said = [*findings.balance(images, data.classes), *findings.sizes(images), *findings.background(images)]
    told, table = findings.shortcuts(images, data.classes)
    out.table("shortcuts", table)
    said += [*told, *findings.patients(images)]
    print(f"one-feature classifiers: {counted(len(told), 'finding')}", flush=True)
    far = findings.outliers(images, data.classes)
    sections = [*balance_section(images, data, out), *measures_section(images, far, data, out)]
    if out.pictures:
        sections.append(samples_section(images, data, out, paths))
    pairs, section = duplicates_section(images, data, out, paths)
    said += findings.duplicates(images, pairs)
    sections.append(section)
    print(f"measured, compared and drawn in {duration(time.perf_counter() - began)}", flush=True)
    if args.features != "none":
        told, section = suspects_section(args, images, data, out, paths, lists, pairs)
        said += told
        sections.append(section)
    write_page(images, far, data, out, said, sections, paths)
    for number, one in enumerate(said, 1):
        print(f"{number}. {one.text} {one.advice}")
    print(f"written to {out.folder}: {', '.join(out.files)}; {duration(time.perf_counter() - began)}")


# ---- measure -------------------------------------------------------------------------------------------------------------------


def all_lists(data: DataSet) -> dict[str, ImageList]:
    """The lists of a data set that exist; of test lists with the same images only the first."""
    found = {"train": read_list(data, "train", labelled=True)}
    if (data.folder / "valid.csv").is_file():
        found["valid"] = read_list(data, "valid", labelled=True)
    for path in sorted(data.folder.glob("resnet_*_test.csv"), key=lambda path: (len(path.stem), path.stem)):
        images = read_list(data, path.stem, labelled=False)
        if all(set(images.paths) != set(other.paths) for other in found.values()):
            found[path.stem] = images
    return found


def measured(data: DataSet, lists: dict[str, ImageList]) -> pd.DataFrame:
    """A row for each image of all lists: list, row (line of the CSV file), image, label (−1 in a test list), class, the
    measurements, and the coefficients of its hash, named by number."""
    source = measurements_source(lists["train"])
    tables = []
    for name, images in lists.items():
        values = stored_features(source, data.name, name, images).values
        rows = [images.row(index) for index in range(len(images))]
        named = {"list": name, "row": rows, "image": images.ids, "label": images.labels}
        names = [data.classes[label] if label >= 0 else "" for label in images.labels]
        numbers = pd.DataFrame(np.asarray(values, float), columns=[*MEASURES, *range(values.shape[1] - len(MEASURES))])
        tables.append(pd.concat([pd.DataFrame(named | {"class": names}), numbers], axis=1))
        print(f"{name}: {counted(len(images), 'image')} measured", flush=True)
    return pd.concat(tables, ignore_index=True)


# ---- sections of the page ------------------------------------------------------------------------------------------------------


def balance_section(images: pd.DataFrame, data: DataSet, out: Output) -> list[Section]:
    """Images per class and list."""
    labelled = images[images["label"] >= 0]
    order = [name for name in ("train", "valid") if name in set(labelled["list"])]
    table = pd.crosstab(labelled["class"], labelled["list"]).reindex(index=data.classes, columns=order, fill_value=0)
    out.picture("classes", classes_figure(table, f"Classes of {data.name}"), "bars: images per class and list")
    counts = images["list"].value_counts()
    texts = ["; ".join(f"{name}.csv: {counted(int(counts[name]), 'image')}" for name in counts.index) + "."]
    return [Section("Classes", texts, plots=[bars_plot(table)])]


def bars_plot(table: pd.DataFrame) -> graph_objects.Figure:
    """The images of each class and list as bars; ``table`` has a row for each class and a column for each list."""
    figure = graph_objects.Figure()
    for name, colour in zip(table, LISTS, strict=False):
        shares = (100 * table[name] / max(1, table[name].sum())).tolist()
        texts = [f"{count:,} images" for count in table[name]]
        classes = [escape(one) for one in table.index]
        style = {"marker_color": colour, "name": f"{name}.csv", "hovertemplate": "%{y}: %{text}, %{x:.1f} %"}
        figure.add_bar(x=shares, y=classes, text=texts, textposition="none", orientation="h", **style)
    figure.update_xaxes(title="share of the list, %").update_yaxes(type="category", autorange="reversed")
    return figure.update_layout(template="plotly_white", height=140 + 24 * table.size, margin={"t": 20, "r": 10})


def measures_section(images: pd.DataFrame, far: pd.DataFrame, data: DataSet, out: Output) -> list[Section]:
    """Sizes and measurements per class, and the images ``far`` out of them."""
    out.table("outliers", far)
    labelled = images[images["label"] >= 0]
    varied = {name: text for name, text in MEASURES.items() if labelled[name].nunique() > 1}
    sizes = findings.sizes_of(images)
    some = "; ".join(f"{size}: {count:,}" for size, count in sizes[:6])
    texts = [f"Sizes: {some}{f'; and {len(sizes) - 6:,} others' if len(sizes) > 6 else ''}."]
    texts.append(
        "Noise is estimated as by Immerkær (1996). Stained pixels are those of a cell on black or, in a smear, those with less "
        "green than Otsu's threshold. Boxes: median and quartiles. Points: values more than three interquartile ranges "
        f"beyond the quartiles of their class, {len(far):,} in all (explore_outliers.csv)"
        + ("; point at one to see it." if out.pictures else ".")
    )
    sections = []
    if varied:
        figure = boxes_figure(labelled, varied, data.classes, f"Measurements on {data.name}")
        out.picture("measures", figure, "box plots of the measurements per class")
        sections.append(Section("Measurements", texts, plots=[boxes_plot(labelled, far, varied, data.classes)]))
    return sections or [Section("Measurements", texts)]


def boxes_plot(
    images: pd.DataFrame, far: pd.DataFrame, measures: dict[str, str], classes: list[str]
) -> graph_objects.Figure:
    """The box plots of all measures, from quartiles alone, with the outliers as points."""
    columns = 2
    rows = -(-len(measures) // columns)
    titles = list(measures.values())
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.35 / rows, horizontal_spacing=0.05)
    for number, measure in enumerate(measures):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        used = [name for name in classes if (images["class"] == name).any()]
        values = [images.loc[images["class"] == name, measure].to_numpy() for name in used]
        low, q1, median, q3, high = np.array([np.quantile(one, (0, 0.25, 0.5, 0.75, 1)) for one in values]).T
        step = findings.FAR * (q3 - q1)
        boxes = {"q1": q1, "median": median, "q3": q3}
        boxes |= {"lowerfence": np.maximum(low, q1 - step), "upperfence": np.minimum(high, q3 + step)}
        style = {"line_color": "#0072B2", "showlegend": False, "name": ""}
        figure.add_box(
            x=[escape(name) for name in used], **{key: found.tolist() for key, found in boxes.items()}, **style, **place
        )
        points = far[far["measure"] == measure]
        figure.add_scatter(
            x=[escape(name) for name in points["class"]],
            y=points["value"].tolist(),
            customdata=points.index.tolist(),
            text=[f"{name}.csv line {row}" for name, row in zip(points["list"], points["row"], strict=True)],
            mode="markers",
            marker={"color": "#D55E00", "size": 5},
            hovertemplate="%{text}<br>%{y:.4g}<extra>%{x}</extra>",
            showlegend=False,
            **place,
        )
    figure.update_xaxes(type="category")  # also for names such as "1"
    figure.update_layout(template="plotly_white", height=300 * rows, margin={"t": 40, "l": 40, "r": 10})
    return figure


def samples_section(images: pd.DataFrame, data: DataSet, out: Output, paths: list[Path]) -> Section:
    """Random images of each class, and one of each with its edges, its HOG and its stained pixels."""
    rng = np.random.default_rng(SEED)
    drawn, steps = [], []
    for label, name in enumerate(data.classes):
        known = images.index[(images["label"] == label) & (images["list"] == "train")]
        if known.empty:
            continue
        chosen = [read_image(paths[index]) for index in rng.permutation(known)[:SAMPLES]]
        drawn.append((name, [small(image) for image in chosen]))
        grey = np.asarray(Image.fromarray(chosen[0]).convert("L").resize((SIDE, SIDE)))
        edges = canny(grey / 255, sigma=2)
        cells = hog(grey, 9, (10, 10), (2, 2), block_norm="L2-Hys", visualize=True)[1]
        steps.append(
            (name, [small(chosen[0]), edges, np.sqrt(cells), small(chosen[0] * stained(chosen[0])[..., None])])
        )
    grid = rows_figure(drawn, title=f"Random training images of {data.name}")
    beside = rows_figure(steps, ["image", "edges (Canny)", "HOG", "stained"], f"One image of each class of {data.name}")
    pictures = [out.picture("samples", grid, "random training images of each class", PHOTOS)]
    pictures.append(
        out.picture("edges", beside, "an image of each class, its edges, its HOG and its stained pixels", PHOTOS)
    )
    return Section("Samples", pictures=pictures)


def duplicates_section(
    images: pd.DataFrame, data: DataSet, out: Output, paths: list[Path]
) -> tuple[pd.DataFrame, Section]:
    """Images that show the same, within and across the lists. Also returns the pairs."""
    print(f"duplicates: comparing {counted(len(images), 'image')}", flush=True)
    contents = fingerprints(Path(), [str(path) for path in paths])
    signs = images[list(range(duplicates.SIGNS))].to_numpy(np.float32)
    pairs, counts, limit = kept(duplicates.near_pairs, data.name)(signs, paths, contents)
    first, second = images.iloc[pairs["first"]], images.iloc[pairs["second"]]
    table = pairs[["kind", "distance", "correlation"]]
    for number, side in enumerate((first, second), 1):
        columns = {f"{name}_{number}": side[name].to_numpy() for name in ("list", "row", "image", "class")}
        table = table.assign(**columns)
    out.table("duplicates", table)
    print(f"duplicates: {counted(len(pairs), 'pair')}", flush=True)
    histogram = distances_figure(counts, limit, f"Distances between the images of {data.name}")
    out.picture("distances", histogram, "histogram of the distances of all pairs of images")
    pictures = []
    if len(pairs) and out.pictures:
        # Contradictory labels first, then across lists.
        rank = 2 * (table["class_1"] != table["class_2"]) + (table["list_1"] != table["list_2"])
        cells = []
        for index in rank.sort_values(ascending=False, kind="stable").index[:PAIRS]:
            pair = table.loc[index]
            both = [small(read_image(paths[pairs.loc[index, side]])) for side in ("first", "second")]
            sides = [f"{pair[f'list_{n}']} {pair[f'row_{n}']}, {shown(pair[f'class_{n}'] or '–', 18)}" for n in (1, 2)]
            cells.append((both, f"{sides[0]} | {sides[1]}\n{pair['kind']}, correlation {pair['correlation']:.3f}"))
        figure = gallery_figure(cells, 3, f"Duplicates in {data.name}: list, line and class")
        pictures.append(out.picture("duplicates", figure, "pairs of images that show the same", PHOTOS))
    near = (
        f"Up to {limit} signs that differ, less than one pair is expected by chance (normal fit); such pairs are duplicates if "
        f"their pixels correlate by {duplicates.ALIKE} or more; of cells on black only the cells, by {duplicates.ALIKE_CELLS}."
        if limit >= 0
        else "The hash does not tell these images apart, so that only identical files are listed."
    )
    text = (
        "Each image is compared with all others under eight flips and turns, by the signs of its lowest frequencies. "
        f"{near} Found: {counted(len(pairs), 'pair')} (explore_duplicates.csv)."
    )
    return pairs, Section("Duplicates", [text], plots=[distances_plot(counts, limit)], pictures=pictures)


def distances_plot(counts: np.ndarray, limit: int) -> graph_objects.Figure:
    """How many pairs of images have each distance; pairs up to the ``limit`` are compared in pixels."""
    figure, numbers = graph_objects.Figure(), np.arange(len(counts))
    for chosen, name, colour in (
        (numbers <= limit, "compared in pixels", LISTS[1]),
        (numbers > limit, "different", LISTS[0]),
    ):
        style = {"marker_color": colour, "name": name, "hovertemplate": "%{x} signs: %{y:,} pairs"}
        figure.add_bar(x=numbers[chosen].tolist(), y=counts[chosen].tolist(), **style)
    figure.update_xaxes(title="signs that differ in the most similar of eight flips and turns")
    figure.update_yaxes(title="pairs of images", type="log")
    return figure.update_layout(template="plotly_white", height=360, bargap=0.05, margin={"t": 20, "r": 10})


def suspects_section(
    args: argparse.Namespace,
    images: pd.DataFrame,
    data: DataSet,
    out: Output,
    paths: list[Path],
    lists: dict[str, ImageList],
    pairs: pd.DataFrame,
) -> tuple[list[findings.Finding], Section]:
    """Labels that are probably wrong. Also returns the finding."""
    labelled = images[images["label"] >= 0]
    labels, groups = labelled["label"].to_numpy(), duplicates.groups(pairs, len(images))[labelled.index]
    if why := cannot_search(labels, groups):
        print(f"labels: not searched, {why}")
        return [], Section("Labels", [f"Wrong labels were not searched for: {why}."])
    hardware = choose_hardware(args.device, args.precision)
    source = open_source(args.features, data, lists["train"], args.weights, hardware, None, args.weights_file)
    check_memory(len(labels), source)
    known = [stored_features(source, data.name, name, lists[name]).values for name in labelled["list"].unique()]
    search = kept(labels_search.out_of_fold, data.name)
    probabilities = search(np.concatenate(known), labels, groups, len(data.classes))
    order, wrong = labels_search.suspicious(labels, probabilities)
    predicted = probabilities.argmax(axis=1)
    accuracy = percent(float((predicted == labels).mean()))
    first = order[: max(wrong, SUSPECTS)]
    table = labelled.iloc[first][["list", "row", "image", "class"]].assign(
        predicted=[data.classes[label] for label in predicted[first]],
        probability_of_label=probabilities[first, labels[first]],
        probability_of_predicted=probabilities.max(axis=1)[first],
        wrong=np.arange(len(first)) < wrong,
    )
    out.table("suspects", table)
    pictures = [suspects_gallery(table, data, out, paths)] if out.pictures else []
    text = (
        f"Logistic regression on the features of {source.title}, each image predicted without it ({labels_search.FOLDS} folds, "
        f"duplicates together): {accuracy} agree with their label. Confident learning estimates from these probabilities "
        f"how many labels of each class are wrong, and suspects the least probable: {wrong:,} of "
        f"{len(labels):,} (explore_suspects.csv). "
        "The errors of the head are among them: a weak head suspects hard images."
        + " The network was trained on these labels, and may have learned the wrong ones, too."
        * (args.features in names())
    )
    return findings.suspects(labelled, order, wrong, source.title), Section("Labels", [text], pictures=pictures)


def suspects_gallery(table: pd.DataFrame, data: DataSet, out: Output, paths: list[Path]) -> tuple[bytes, str]:
    """The first suspects as pictures; ``table`` has their numbers as index."""
    cells = []
    for index, row in itertools.islice(table.iterrows(), SUSPECTS):
        text = f"{row['list']} {row['row']}: {shown(row['class'], 18)}\nseems {shown(row['predicted'], 18)}, "
        image = small(read_image(paths[int(str(index))]))
        cells.append(([image], text + percent(row["probability_of_predicted"], 0)))
    figure = gallery_figure(cells, 5, f"The most suspicious labels of {data.name}")
    return out.picture("suspects", figure, "images whose labels are probably wrong", PHOTOS)


def cannot_search(labels: np.ndarray, groups: np.ndarray) -> str:
    """Why wrong labels cannot be searched for, or nothing; ``groups`` are those of duplicates."""
    least = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if len(np.unique(labels)) < 2:
        return "all images are of one class"
    return f"a class has fewer than {labels_search.FOLDS} different images" if least < labels_search.FOLDS else ""


def check_memory(images: int, source: Source) -> None:
    """Raise :class:`UserError` if there is less memory than the search for wrong labels needs: the features four times."""
    needed, found = 4 * 4 * images * source.width / 2**30 + 1, available_memory()
    if needed > found:
        raise UserError(
            f"{source.title} of {counted(images, 'image')}: the search for wrong labels needs {needed:.1f} GiB of memory, and "
            f"{found:.1f} GiB are available; end other programs, or take --features {NAMES[0]} or none."
        )


def write_page(
    images: pd.DataFrame,
    far: pd.DataFrame,
    data: DataSet,
    out: Output,
    said: list[findings.Finding],
    sections: list[Section],
    paths: list[Path],
) -> None:
    """Write explore.html, with the findings on top."""
    thumbnails = {}
    if out.pictures:
        for index in np.random.default_rng(SEED).permutation(far.index.unique())[:MOST_THUMBNAILS]:
            thumbnails[int(index)] = thumbnail(read_image(paths[index]))
    first = Section("Findings", [] if said else ["Nothing unusual was found."], points=[*said])
    lead = f"{counted(len(images), 'image')} of {counted(len(data.classes), 'class').replace('classs', 'classes')}."
    out.write("html", page(f"The data set {data.name}", lead, [first, *sections], thumbnails))


if __name__ == "__main__":
    run(main, ARGS)
