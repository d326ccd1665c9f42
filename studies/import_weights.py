"""Import a plain state dict of a standard ResNet from elsewhere, so that the other commands can use it.

    python -m studies.import_weights peer.pth --data csv/lab3 --size 224 --normalise imagenet

The names and shapes of the tensors determine the depth. Only tensors are read, never code. A state dict does not contain the
size of the input and its normalisation; give those of the training. The command measures the accuracy on valid, which shows
whether they were right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.errors import UserError
from lab.options import add_machine, add_places, add_quiet, parse
from models import catalog

NORMALISE = ["imagenet", "half", "none"]


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Import a plain state dict of a standard ResNet.")
    parser.add_argument("file", type=Path, help="the .pth or .safetensors file")
    add_places(parser)
    parser.add_argument("--size", type=int, help="side of the network input in px (default: 224)")
    help_window = "side of the central square that is scaled to it, px (default: the shorter side of the first image)"
    parser.add_argument("--window", type=int, help=help_window)
    help_normalise = (
        "mean and standard deviation of the training: imagenet's, half (0.5, 0.5), none (default: imagenet)"
    )
    parser.add_argument("--normalise", default="imagenet", choices=NORMALISE, help=help_normalise)
    parser.add_argument("--fresh", action="store_true", help="replace a best checkpoint that is there")
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path or size before torch is imported."""
    from lab.checkpoints.headers import read_file
    from lab.data.lists import find_folder

    smallest = max(catalog.find(model).smallest for model in catalog.resnets())
    args.size = 224 if args.size is None else args.size
    if not smallest <= args.size <= 4096 or not 1 <= (args.window or 1) <= 16384 or args.window == 0:
        raise UserError(f"--size must be from {smallest} to 4,096, and --window from 1 to 16,384.")
    read_file(args.file)
    find_folder(args.data, args.root, ("train", "valid"))


ARGS = parse(arguments, __name__, check_paths)

import numpy as np

from lab.checkpoints.checkpoint import About, load_network, save_checkpoint
from lab.checkpoints.ensembles import others
from lab.checkpoints.state_dicts import NORMALISATIONS, read_state, recognise
from lab.data.batches import stored_batches
from lab.data.images import read_image
from lab.data.lists import read_data_set, read_lists
from lab.data.preprocessing import Preprocessing
from lab.errors import run
from lab.evaluation.inference import predict, score
from lab.files import alone
from lab.hardware import choose_hardware
from lab.terminal import warn
from lab.text import percent


def main(args: argparse.Namespace) -> None:
    """Read the state dict, recognise its depth, measure it on valid, and save it."""
    state = read_state(args.file)
    data = read_data_set(args.data, args.root)
    lists = read_lists(data, ("train", "valid"))
    model = recognise(args.file, state, len(data.classes), args.size)
    window = args.window or min(read_image(lists["train"].paths[0]).shape[:2])
    mean, std = NORMALISATIONS[args.normalise]
    # Such networks are usually trained on the whole image, resized: the window is at the centre, wherever the cell is.
    preprocessing = Preprocessing(window, args.size, args.size, "centre", mean, std)
    print(f"{args.file}: {model}, {len(data.classes)} classes: {', '.join(data.classes)}")
    print(
        f"preprocessing: the central {window} px scaled to {args.size} px, normalised by mean {mean} and standard deviation {std}"
    )
    hardware = choose_hardware(args.device, args.precision)
    folder = args.weights / data.name / model
    best = folder / "best.safetensors"
    with alone(folder, "working"):
        if (folder / "last.safetensors").exists() or others(folder):
            raise UserError(f"{folder}: contains a training or an average; give other --weights.")
        if best.is_file() and not args.fresh:
            raise UserError(f"{best} is there already; --fresh replaces it, or give other --weights.")
        share = np.bincount(lists["train"].labels, minlength=len(data.classes)) / len(lists["train"])
        tensors = {f"model.{name}": tensor for name, tensor in state.items()}
        network = catalog.build(model, len(data.classes), args.size)
        network.load_state_dict(state, strict=True)
        hardware.place(network.eval())
        labels = lists["valid"].labels
        batches = stored_batches(data.name, "valid", lists["valid"], preprocessing, hardware.device)
        metrics: dict[str, float] = {"epoch": 0, "valid_images": len(labels)}
        for ending, d4 in (("", False), ("_d4", True)):
            accuracy, loss = score(predict(network, batches, hardware, d4, f"validating {model}"), labels)
            metrics |= {f"valid_accuracy{ending}": accuracy, f"valid_loss{ending}": loss}
        fields = {"metrics": metrics, "train_share": share.tolist(), "finished": True}
        save_checkpoint(best, About(model, data.classes, preprocessing, data.name, **fields), tensors)
    load_network(best, model)
    plain, averaged = (metrics[name] for name in ("valid_accuracy", "valid_accuracy_d4"))
    print(f"{model}: {percent(plain)} on valid, {percent(averaged)} averaged over D4; saved in {best}.")
    if plain < share.max() + 0.05:
        warn(
            f"always predicting {data.classes[int(share.argmax())]} reaches {percent(share.max(), 1)}; are --size, "
            "--window and --normalise those of the training, and the classes in this order?"
        )


if __name__ == "__main__":
    run(main, ARGS)
