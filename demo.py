"""The demo: load the trained models on any machine, show their results, and predict single images.

    python demo.py --data csv/sample                    # table and figure of the valid list
    python demo.py --data csv/sample cell.bmp           # only the class probabilities of single images
    python demo.py --data csv/sample --serve            # a page in the browser: predictions and heat maps of any image

Needs only the code and weights/<data>/. Without the lists, the table shows the results saved in the checkpoints. Without --data
and without anything of lab3, the data set is the only one in weights/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.errors import UserError
from lab.options import GivenParser, add_machine, add_places, add_report, parse


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = GivenParser(description="Show the trained models' results, or predict single images.")
    parser.add_argument(
        "images", nargs="*", type=Path, help="images to predict instead, in any format that Pillow reads"
    )
    add_places(parser)
    add_report(parser)
    add_machine(parser)
    parser.add_argument("--serve", action="store_true", help="serve a page for the browser, until Ctrl-C")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, help="port to serve on (default: the first free one from 7860 on)")
    languages = ("en", "zh")
    parser.add_argument(
        "--language", choices=languages, default="en", help="language that the page opens in (default: en)"
    )
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before torch is imported, and choose the data set if none is given."""
    from lab.checkpoints.headers import chosen_data, trained_models
    from lab.data.images import read_image
    from lab.data.lists import data_name

    args.data = chosen_data(args.data, "data" in args.given, args.weights)
    if args.serve and args.images:
        raise UserError("--serve takes no images on the command line; upload them on the page.")
    for path in args.images:
        read_image(path)
    trained_models(args.weights / data_name(args.data))


ARGS = parse(arguments, __name__, check_paths)

import time

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import confusion_matrix

from lab.checkpoints.checkpoint import check_data
from lab.checkpoints.ensembles import Member, count_parameters, load_members
from lab.checkpoints.headers import trained_models
from lab.data.augmentation import network_input
from lab.data.batches import stored_batches
from lab.data.images import read_image
from lab.data.lists import DataSet, ImageList, data_name, read_data_set, read_list
from lab.data.preprocessing import NO_CELL, Preprocessing
from lab.errors import run
from lab.evaluation.confidence import calibrated, threshold
from lab.evaluation.inference import Feed, decide_d4, predict_members
from lab.evaluation.metrics import saved_accuracy, wilson
from lab.evaluation.prediction import NOT_FOR_DIAGNOSIS
from lab.evaluation.unlike import UNLIKE, are_unlike, judge
from lab.figures.accuracy import accuracy_figure
from lab.figures.confusion import confusions_figure
from lab.figures.galleries import predictions_figure
from lab.figures.style import save
from lab.hardware import Hardware, choose_hardware
from lab.text import percent

Networks = dict[str, list[Member]]


def main(args: argparse.Namespace) -> None:
    """Load every trained model, and predict the given images or else show the results on the valid list."""
    name = data_name(args.data)  # the lists may be missing
    hardware = choose_hardware(args.device, args.precision)
    paths = {model: args.weights / name / model / "best.safetensors" for model in trained_models(args.weights / name)}
    networks = {model: load_members(path, model) for model, path in paths.items()}
    for members in networks.values():
        for network, _ in members:
            hardware.place(network)
    if len({tuple(members[0][1].classes) for members in networks.values()}) > 1:
        raise UserError(f"{args.weights / name}: the models were trained on different classes; train them again.")
    report = args.report / name
    if args.images:
        show_images(networks, args.images, hardware, report / "demo_images.png")
        print(NOT_FOR_DIAGNOSIS)
        return
    valid, why = None, ""
    try:
        data = read_data_set(args.data, args.root)
        valid = read_list(data, "valid", labelled=True)
    except UserError as error:
        why = str(error).splitlines()[0]
    else:
        for model, members in networks.items():
            check_data(paths[model], members[0][1], data)
    if args.serve:
        try:
            from lab.page.content import prepare  # slow to import, and not needed for the table
            from lab.page.server import serve
        except ModuleNotFoundError as error:
            install = "python -m pip install gradio plotly captum -c constraints.txt"
            raise UserError(f"--serve needs the package {error.name}; `{install}`.") from None
        serve(prepare(name, networks, hardware, valid, why, report), args.host, args.port, args.language)
    elif valid is None:
        print(f"no results on valid.csv: {why}\nResults saved in the checkpoints:")
        show_saved(networks, report / "demo.png", name)
    else:
        show_valid(networks, data, valid, hardware, report / "demo.png")
    print(NOT_FOR_DIAGNOSIS)


def show_saved(networks: Networks, path: Path, name: str) -> None:
    """Print a table of the results saved in the checkpoints, and draw the accuracy per epoch."""
    rows, histories = [], {}
    for model, members in networks.items():
        about = members[0][1]
        share, low, high = saved_accuracy(about.metrics, decide_d4(about, "auto", quiet=True))
        interval = f"{100 * low:.2f}–{percent(high)}" if np.isfinite(low) else ""
        accuracy = percent(share) if np.isfinite(share) else "not measured"  # possible for an average of models
        epoch = f"{about.metrics['epoch']:.0f}" if "epoch" in about.metrics else ""
        rows.append([model, f"{count_parameters(members):,}", accuracy, interval, epoch, str(about.preprocessing.size)])
        if about.history:
            histories[model] = pd.DataFrame(about.history)
    columns = ["model", "parameters", "valid accuracy", "95 % interval", "epoch", "size, px"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False))
    if histories:
        save(accuracy_figure(histories, f"Accuracy per epoch on {name}, as saved with the weights"), path)
        print(f"\nfigure: {path}")


def show_valid(networks: Networks, data: DataSet, valid: ImageList, hardware: Hardware, path: Path) -> None:
    """Print a table of the results on the valid list, and draw the confusion matrices of all models in one figure."""
    rows, matrices = [], {}
    for model, members in networks.items():
        cuts = {about.preprocessing for _, about in members}
        # The stores are opened before the clock starts, so that the speed is that of the networks.
        batches = {cut: stored_batches(data.name, "valid", valid, cut, hardware.device) for cut in cuts}
        d4 = decide_d4(members[0][1], "auto")
        start = time.perf_counter()
        probabilities = predict_members(members, batches.__getitem__, hardware, d4, f"validating {model}")
        # Every member sees each image once, or with D4 in eight views.
        speed = (8 if d4 else 1) * len(members) * len(valid) / (time.perf_counter() - start)
        matrices[model] = confusion_matrix(valid.labels, probabilities.argmax(axis=1), labels=range(len(data.classes)))
        hits = int(np.trace(matrices[model]))
        low, high = wilson(hits, len(valid))
        accuracy, interval = percent(hits / len(valid)), f"{100 * low:.2f}–{percent(high)}"
        rows.append([model, f"{count_parameters(members):,}", accuracy, interval, f"{speed:.0f}"])
    columns = ["model", "parameters", "valid accuracy", "95 % interval", "views/s"]
    print(f"\n{data.name}, {len(valid):,} images of valid.csv")
    print(pd.DataFrame(rows, columns=columns).to_string(index=False))
    save(confusions_figure(matrices, data.classes, f"{data.name}: predictions on valid.csv"), path)
    print(f"\nfigure: {path}")


def show_images(networks: Networks, paths: list[Path], hardware: Hardware, path: Path) -> None:
    """Print each image's class probabilities by every model, and draw them in one figure. An image that shows nothing, or that is
    unlike the training images, gets no class."""
    first = judge([members[0][1] for members in networks.values()])
    classes = first.classes
    figure_rows = []
    for source in paths:
        image = read_image(source, first.preprocessing.white)
        probabilities = {}
        print(f"\n{source}")
        if first.preprocessing.shows_nothing(image):
            print(f"  no prediction: the image is {NO_CELL}")
            continue

        def feed(preprocessing: Preprocessing, image: np.ndarray = image) -> Feed:
            crop = torch.from_numpy(preprocessing.crop(image)[None]).to(hardware.device)
            return [(network_input(crop, preprocessing), torch.empty(0), np.arange(1))]

        if are_unlike(feed(first.preprocessing), first)[0]:
            print(f"  no prediction: the image is {UNLIKE}")
            continue
        for model, members in networks.items():
            about = members[0][1]
            d4 = decide_d4(about, "auto", quiet=True)
            row = calibrated(predict_members(members, feed, hardware, d4), about, d4)[0]
            probabilities[model] = row
            shares = ", ".join(f"{name} {percent(share, 1)}" for name, share in zip(classes, row, strict=True))
            limit = threshold(about, d4)
            doubt = ""
            if row.max() < limit:
                doubt = ", uncertain" + (f": below {percent(limit, 1)}" if limit <= 1 else "")
            print(f"  {model}: {classes[int(row.argmax())]} ({shares}){doubt}")
        figure_rows.append({"title": source.name, "image": image, "probabilities": probabilities})
    if figure_rows:
        save(predictions_figure(figure_rows, classes), path)
        print(f"\nfigure: {path}")


if __name__ == "__main__":
    run(main, ARGS)
