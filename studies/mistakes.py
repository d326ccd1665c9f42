"""Where the errors on valid are: which classes are confused, and which images several systems get wrong with the same answer.

    python -m studies.mistakes --data csv/lab3                                       # the trained ResNets in report/lab3
    python -m studies.mistakes --data pbc8 --report report/results --systems resnet18 cnn6 vgg16 efficientnet_lite0_tuned

An image to which systems of different kinds give the same wrong class is hard, or its label is wrong. Reads valid_<system>.csv,
and explore_suspects.csv if studies.explore has searched for wrong labels. Writes mistakes.csv, mistakes.md and mistakes.png into
the same folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.options import add_places, add_quiet, add_report, parse
from models.catalog import depths


def arguments() -> argparse.ArgumentParser:
    """The options and their defaults."""
    parser = argparse.ArgumentParser(description="Where the errors on valid are.")
    add_places(parser)
    add_report(parser)
    help_systems = "those of valid_<system>.csv to compare (default: the trained ResNets of the lab)"
    parser.add_argument("--systems", nargs="+", metavar="SYSTEM", help=help_systems)
    parser.add_argument("--no-images", action="store_true", help="draw no image, for data that must not be shown")
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Choose the systems, and report a wrong path before anything slow is imported."""
    from lab.data.lists import data_name, find_folder
    from lab.errors import UserError

    folder = args.report / data_name(find_folder(args.data, args.root, ("valid",)))
    if args.systems is None:
        args.systems = [model for model in depths() if (folder / f"valid_{model}.csv").is_file()]
    missing = [name for name in args.systems if not (folder / f"valid_{name}.csv").is_file()]
    if missing or not args.systems:
        what = f"valid_{missing[0]}.csv" if missing else "valid_<model>.csv of a ResNet"
        raise UserError(f"{folder}: there is no {what}; train the model and run evaluate.py first.")


ARGS = parse(arguments, __name__, check_paths)

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lab.data.images import read_image
from lab.data.lists import DataSet, ImageList, read_data_set, read_list
from lab.errors import run
from lab.evaluation.valid_table import ValidTable, read_predictions_of
from lab.figures.exploration import gallery_figure
from lab.figures.style import PHOTOS, png
from lab.files import write_whole
from lab.text import counted

PAIRS = 4  # of confused classes, in the table
SHOWN = 20  # images in the figure


def main(args: argparse.Namespace) -> None:
    """Collect the errors, print them by system, and write tables and figure."""
    data = read_data_set(args.data, args.root)
    valid, folder = read_list(data, "valid", labelled=True), args.report / data.name
    found = {name: read_predictions_of(valid, folder / f"valid_{name}.csv") for name in args.systems}
    table = errors(found, data, suspected(folder / "explore_suspects.csv"))
    write_whole(folder / "mistakes.csv", table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
    lines = markdown(found, table, data)
    write_whole(folder / "mistakes.md", "\n".join(lines) + "\n")
    written = ["mistakes.csv", "mistakes.md"]
    shared = table[table["same"] == len(found)]
    if len(shared) and not args.no_images:
        write_whole(folder / "mistakes.png", png(figure(shared, valid, data), PHOTOS))
        written.append("mistakes.png")
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)
    print("\n".join(lines))
    print(f"written to {folder}: {', '.join(written)}")


def suspected(path: Path) -> set[str]:
    """The valid images whose labels studies.explore suspects; none if there is no such table."""
    if not path.is_file():
        return set()
    table = pd.read_csv(path, dtype=str)
    return set(table.loc[(table["list"] == "valid") & (table["wrong"] == "True"), "image"])


def errors(found: dict[str, ValidTable], data: DataSet, suspects: set[str]) -> pd.DataFrame:
    """A row for each image that a system gets wrong, those on which most agree first: how many systems are ``wrong``, the most
    frequent wrong ``answer``, how many give this ``same`` one, and the mean probability of the label."""
    first = next(iter(found.values()))
    answers = np.stack([table.probabilities.argmax(axis=1) for table in found.values()])
    of_label = np.mean(
        [table.probabilities[np.arange(len(first.ids)), first.labels] for table in found.values()], axis=0
    )
    rows = []
    for index in np.flatnonzero((answers != first.labels).any(axis=0)):
        wrong = answers[:, index][answers[:, index] != first.labels[index]]
        (answer, same), *_ = Counter(wrong.tolist()).most_common(1)
        names = {"class": data.classes[first.labels[index]], "answer": data.classes[answer]}
        counts = {"wrong": len(wrong), "same": same, "probability_of_label": of_label[index]}
        rows.append({"ID": first.ids[index], **names, **counts, "suspected": first.ids[index] in suspects})
    columns = ["ID", "class", "answer", "wrong", "same", "probability_of_label", "suspected"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["same", "wrong", "probability_of_label"], ascending=[False, False, True], ignore_index=True
    )


def markdown(found: dict[str, ValidTable], table: pd.DataFrame, data: DataSet) -> list[str]:
    """The errors of each system: how many all systems share, how many labels are suspected, and the pairs of classes."""
    images = len(next(iter(found.values())).ids)
    shared = set(table.loc[table["same"] == len(found), "ID"])
    suspects = set(table.loc[table["suspected"], "ID"])
    lines = [f"# Errors on {data.name}, {images:,} valid images", ""]
    lines += [
        f"| system | errors | the same in all {len(found)} systems | suspected labels | most frequent, as label → answer |"
    ]
    lines += ["|---|---|---|---|---|"]
    for name, one in found.items():
        answers = one.probabilities.argmax(axis=1)
        wrong = np.flatnonzero(answers != one.labels)
        ids = {one.ids[index] for index in wrong}
        pairs = Counter((data.classes[one.labels[index]], data.classes[answers[index]]) for index in wrong)
        texts = ", ".join(f"{label} → {answer} {count}" for (label, answer), count in pairs.most_common(PAIRS))
        lines.append(f"| {name} | {len(wrong)} | {len(ids & shared)} | {len(ids & suspects)} | {texts} |")
    lines += [
        "",
        f"{counted(len(table), 'image')} with an error of any system, {len(shared):,} with the same error of all.",
    ]
    if shared and len(found) > 1:
        lines.append(f"A system that gives these answers too cannot exceed {100 * (1 - len(shared) / images):.2f} %.")
    return lines


def figure(shared: pd.DataFrame, valid: ImageList, data: DataSet) -> Figure:
    """The first images that all systems get wrong with the same answer."""
    paths = dict(zip(valid.ids, valid.paths, strict=True))
    cells = []
    for row in shared.head(SHOWN).to_dict("records"):
        text = f"{row['ID']}\nlabel {row['class']},\nall say {row['answer']}"
        cells.append(([read_image(paths[row["ID"]])], text))
    return gallery_figure(cells, 5, f"Valid images of {data.name} that all systems get wrong alike")


if __name__ == "__main__":
    run(main, ARGS)
