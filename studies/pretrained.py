"""Train a classifier on a network with ImageNet weights, for comparison with networks trained from scratch.

    python -m studies.pretrained --data all4 --base efficientnet_lite0 --mode frozen   # a new head on its features
    python -m studies.pretrained --data all4 --base efficientnet_lite0 --mode tuned    # all layers, at two learning rates
    python -m studies.pretrained --data all4 --base imagenet_resnet18 --weights-file resnet18.pth

The same command resumes after the last finished epoch; --fresh starts over. Writes weights/<data>/<system>/training.safetensors,
into report/<data>/ history_<system>.csv, run_<system>.json and valid_<system>.csv, and csv/<data>/submission_<system>.csv, where
<system> is <base>_frozen or <base>_tuned.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.options import add_machine, add_places, add_quiet, add_report, parse
from studies.bases import KINDS, NAMES, SIZE, Base, check_base, check_size, open_base

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
MODES = {"frozen": "new head", "tuned": "fine-tuned"}
# An epoch of a head on features that are computed takes a second.
DEFAULTS: dict[str, dict[str, Any]] = {
    "frozen": {"epochs": 40, "batch_size": 64, "augmentation": "none"},
    "tuned": {"epochs": 10, "batch_size": 32, "augmentation": "geometry,colour"},
}
FIXED = {"progressive": False, "accumulate": 1, "class_weights": "none", "zero_init": False}
FIXED |= {"warmup": 1.0, "smoothing": 0.1, "ema": 0.99, "clip": 5.0}
WIDTHS = (256, 128, 64, 16, 8)  # of the head's layers after the features, as published for VGG-16: 173,692 parameters
MOMENTUM = 0.1  # of batch norms that are trained: the package's 0.01 is too slow for a few hundred steps


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Train a classifier on a network with ImageNet weights.")
    parser.add_argument("--base", default=NAMES[0], choices=NAMES, help=f"the network (default: {NAMES[0]})")
    help_mode = "frozen: a new head on the features; tuned: fine-tuning (default: tuned)"
    parser.add_argument("--mode", default="tuned", choices=MODES, help=help_mode)
    help_weights = "state dict with ImageNet's classes (default: EfficientNet-Lite0's package)"
    parser.add_argument("--weights-file", type=Path, help=help_weights)
    add_places(parser)
    add_report(parser)
    parser.add_argument("--fresh", action="store_true", help="start over; an earlier training is overwritten")
    parser.add_argument("--size", type=int, default=SIZE, help=f"side of the network input in px (default: {SIZE})")
    parser.add_argument("--window", type=int, help="side of the crop of the raw image in px (default: measured)")
    parser.add_argument("--augmentation", help="as in train.py; tuned only (default: geometry,colour)")
    parser.add_argument("--epochs", type=int, help="passes over the training list (default: 40 frozen, 10 tuned)")
    parser.add_argument("--batch-size", type=int, help="images per optimizer step (default: 64 frozen, 32 tuned)")
    help_optimizer = "adamw, adam, sgd with Nesterov momentum 0.9, or rmsprop (default: adamw)"
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help=help_optimizer)
    help_base = "peak learning rate of the base; tuned only (default: 0.001 for EfficientNet-Lite0, else 0.00003)"
    parser.add_argument("--lr-base", type=float, help=help_base)
    parser.add_argument("--lr-head", type=float, default=1e-3, help="peak learning rate of the head (default: 0.001)")
    help_share = "share of the base's layers, from the input on, that stay as they are; tuned only (default: 0)"
    parser.add_argument("--frozen-share", type=float, default=0.0, help=help_share)
    parser.add_argument("--dropout", type=float, default=0.2, help="dropout of the head (default: 0.2)")
    help_patience = "stop after this many epochs without a new best, 0 for never (default: 10)"
    parser.add_argument("--patience", type=int, default=10, help=help_patience)
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Set the defaults of the mode, and report a wrong path or number before torch is imported."""
    from lab.data.lists import find_folder

    if args.mode == "frozen" and (args.augmentation not in (None, "none") or args.frozen_share or args.lr_base):
        raise UserError(
            "--augmentation, --frozen-share and --lr-base need --mode tuned; here the base does not change."
        )
    for name, value in (DEFAULTS[args.mode] | {"lr_base": KINDS[args.base].lr}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    limits = {"epochs": (1, 10_000), "batch_size": (2, 65_536), "patience": (0, 10_000), "seed": (0, 2**63 - 1)}
    limits |= {"window": (1, 16_384), "frozen_share": (0, 1)}
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} must be from {low:,} to {high:,}, not {value}.")
    for name in ("lr_base", "lr_head"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {getattr(args, name)}.")
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout must be at least 0 and below 1, not {args.dropout}.")
    check_size(args.base, args.size)
    check_base(args.base, args.weights_file)
    find_folder(args.data, args.root, ("train", "valid"))


ARGS = parse(arguments, __name__, check_paths)

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.checkpoints.checkpoint import (
    About,
    known_fields,
    load_optimizer,
    load_strictly,
    optimizer_tensors,
    part,
    read_tensors,
    save_checkpoint,
)
from lab.checkpoints.headers import read_header
from lab.checkpoints.histories import best_of, describe_best, epoch_line, rank, write_history
from lab.data.augmentation import parts_of
from lab.data.batches import EVALUATION_BATCH, STORES, Batches, stored_batches
from lab.data.lists import DataSet, ImageList, list_digest, read_data_set, read_lists
from lab.data.preprocessing import Preprocessing, choose_preprocessing
from lab.data.random_numbers import permutation, step_seed
from lab.data.store import Store, open_stores, warn_of_shared_images
from lab.errors import run
from lab.evaluation.confidence import fit_temperature, scaled
from lab.evaluation.inference import decide_d4, for_prediction, macro_scores, outputs, predict, score
from lab.files import alone, check_writable
from lab.hardware import Hardware, choose_hardware
from lab.terminal import progress
from lab.text import duration, percent, shown
from lab.training.ema import EMA
from lab.training.recipe import DEFAULTS as WEIGHT_DECAY
from lab.training.recipe import Settings, learning_rate, optimizer_of
from studies.systems import TEST_LIST, System, count_network, test_images, write_answers, write_system


@dataclass(frozen=True)
class Task:
    """What is trained on what: ``whole`` is base and head, and ``frozen`` names its layers that are not trained."""

    args: argparse.Namespace
    system: str
    base: Base
    whole: nn.Module
    frozen: list[str]
    data: DataSet
    lists: dict[str, ImageList]
    preprocessing: Preprocessing
    hardware: Hardware


@dataclass
class Training:
    """A training.

    Attributes:
        about: its description, with settings, history and the metrics of the best epoch.
        settings: those of the head; the base has another peak learning rate.
        network: what is trained: base and head, or the head alone if the base is frozen.
        hardware: for training, which may have another precision than prediction.
        batches: epoch → batches of inputs and labels, ``steps`` of them.
        predict: network → class probabilities [N, K] of the valid images, whose labels are ``labels`` [N].
        best: the averaged weights of the best epoch.
    """

    about: About
    settings: Settings
    network: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    hardware: Hardware
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]]
    steps: int
    predict: Callable[[nn.Module], np.ndarray]
    labels: np.ndarray
    best: dict[str, Tensor] = field(default_factory=dict)


def main(args: argparse.Namespace) -> None:
    """Train the system, or resume it, and write what it predicts."""
    data = read_data_set(args.data, args.root)
    lists = read_lists(data, ("train", "valid"))
    if len(np.unique(lists["train"].labels)) < 2:
        raise UserError(f"{lists['train'].csv}: all images have the same class; a classifier needs two or more.")
    parts_of(args.augmentation)
    hardware = choose_hardware(args.device, args.precision)
    base = open_base(args.base, args.weights_file)
    system = f"{base.name}_{args.mode}"
    file, report = args.weights / data.name / system / "training.safetensors", args.report / data.name
    with alone(file.parent, "training"):
        check_writable(report)
        preprocessing = choose_preprocessing(lists["train"], args.size, args.window)
        preprocessing = replace(preprocessing, mean=base.mean, std=base.std)
        torch.manual_seed(args.seed)
        whole = hardware.place(classifier(base, args.mode, len(data.classes), args.dropout))
        frozen = freeze(whole, 1.0 if args.mode == "frozen" else args.frozen_share)
        task = Task(args, system, base, whole, frozen, data, lists, preprocessing, hardware)
        began = time.perf_counter()
        training = prepare(task)
        prepared = time.perf_counter() - began if args.mode == "frozen" else 0.0
        if file.is_file() and not args.fresh:
            resume(training, file)
        while not training.about.finished:
            train_epoch(training, file, report / f"history_{system}.csv")
        write_history(report / f"history_{system}.csv", training.about.history)
        training.network.load_state_dict(training.best)  # the best epoch's, wherever the training ended
        finish(task, training, prepared)


# ---- the network ---------------------------------------------------------------------------------------------------------------


def classifier(base: Base, mode: str, classes: int, dropout: float) -> nn.Module:
    """``base``, pooling and ``head``. Fine-tuned: mean, dropout, one linear layer. Frozen: maximum, then six layers with ReLU
    between them, as published for VGG-16 on blood cells (SYSTEMS.md, project 2); its one dropout is after the first."""
    if mode == "tuned":
        pool: nn.Module = nn.AdaptiveAvgPool2d(1)
        head = nn.Sequential(nn.Dropout(dropout), nn.Linear(base.width, classes))
    else:
        pool, layers = nn.AdaptiveMaxPool2d(1), list[nn.Module]()
        for before, after in pairwise((base.width, *WIDTHS, classes)):
            layer = nn.Linear(before, after)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # torch's default shrinks from layer to layer
            layers += [layer, nn.ReLU()]
        head = nn.Sequential(*layers[:2], nn.Dropout(dropout), *layers[2:-1])
    return nn.Sequential(OrderedDict(base=base.network, pool=pool, flat=nn.Flatten(), head=head))


def freeze(whole: nn.Module, share: float) -> list[str]:
    """Freeze the first ``share`` of the base's layers; returns their names in ``whole``. A layer is a module with parameters of
    its own. The other batch norms get a momentum that suits a short training."""
    layers = [(name, module) for name, module in whole.named_modules() if [*module.parameters(recurse=False)]]
    layers = [(name, module) for name, module in layers if name.startswith("base.")]
    count = round(share * len(layers))
    for number, (_, module) in enumerate(layers):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(number >= count)
        if isinstance(module, nn.BatchNorm2d) and number >= count:
            module.momentum = MOMENTUM
    return [name for name, _ in layers[:count]]


def train_mode(network: nn.Module) -> None:
    """Switch a network to training, except for frozen batch norms, whose statistics would otherwise drift."""
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def make_optimizer(network: nn.Module, settings: Settings, lr_base: float) -> torch.optim.Optimizer:
    """An optimizer with a learning rate for the base and one for the head, without weight decay on norms and biases."""
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for in_base, peak in ((True, lr_base), (False, settings.lr)):
        for matrices, decay in ((True, settings.weight_decay), (False, 0.0)):
            chosen = [p for name, p in named if name.startswith("base.") == in_base and (p.ndim > 1) == matrices]
            groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return optimizer_of(settings.optimizer, [group for group in groups if group["params"]], settings.lr, "fp32")


# ---- prepare: images, features, optimizer --------------------------------------------------------------------------------------


def prepare(task: Task) -> Training:
    """Decode the images, compute the features of a frozen base, and make the optimizer."""
    args, lists, whole, hardware = task.args, task.lists, task.whole, task.hardware
    stores = open_stores(lists, task.preprocessing, STORES / task.data.name)
    warn_of_shared_images(stores)
    options = vars(args) | FIXED | {"model": task.system, "window": task.preprocessing.window, "lr": args.lr_head}
    options |= {"weight_decay": WEIGHT_DECAY[args.optimizer][1]}
    settings = Settings(**{name: options[name] for name in Settings.__dataclass_fields__})
    images = "".join(stores["train"].list_digests() + stores["valid"].list_digests())
    own = {name: options[name] for name in ("base", "mode", "dropout")}
    own |= {name: options[name] for name in ("lr_base", "frozen_share") if args.mode == "tuned"}
    own |= {"weights_sha256": task.base.digest, "images_sha256": hashlib.sha256(images.encode()).hexdigest()}
    digest, values = list_digest(task.data), asdict(settings) | own
    about = About(task.system, task.data.classes, task.preprocessing, task.data.name, digest, settings=values)
    feeds = feature_feeds(task, stores, settings) if args.mode == "frozen" else image_feeds(task, stores, settings)
    network = whole if args.mode == "tuned" else whole.get_submodule("head")
    trained, kept = (
        sum(parameter.numel() for parameter in whole.parameters() if parameter.requires_grad == wanted)
        for wanted in (True, False)
    )
    print(f"{task.system}: {trained:,} of {trained + kept:,} parameters are trained, {settings.epochs} epochs")
    precise = replace(hardware, precision=training_precision(task))
    optimizer = make_optimizer(network, settings, args.lr_base)
    return Training(
        about, settings, network, EMA(network, settings.ema), optimizer, precise, *feeds, lists["valid"].labels
    )


def training_precision(task: Task) -> str:
    """The precision of the training, printed with the reason if it is not that of prediction."""
    hardware, lite = task.hardware, task.base.name == "efficientnet_lite0"
    if task.args.mode == "frozen":  # the head is small
        return "fp32"
    if task.args.precision == "auto" and hardware.precision == "bf16" and hardware.device.type == "cpu" and lite:
        print("training precision: fp32, because the CPU's gradients of depthwise convolutions are slower in bf16")
        return "fp32"
    if hardware.precision == "fp16":
        print("training precision: fp32, because this training has no loss scaler for fp16")
        return "fp32"
    return hardware.precision


Feeds = tuple[Callable[[int], Iterable[tuple[Tensor, Tensor]]], int, Callable[[nn.Module], np.ndarray]]


def image_feeds(task: Task, stores: dict[str, Store], settings: Settings) -> Feeds:
    """Augmented batches of the training images, their number per epoch, and the prediction of the valid images."""
    device, labels = task.hardware.device, {name: images.labels for name, images in task.lists.items()}
    train = Batches(
        stores["train"],
        labels["train"],
        task.preprocessing,
        settings.batch_size,
        device,
        settings.seed,
        augmentation=settings.augmentation,
        classes=len(task.data.classes),
    )
    valid = Batches(stores["valid"], labels["valid"], task.preprocessing, EVALUATION_BATCH, device)

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        named = progress(train.epoch(epoch), f"epoch {epoch + 1}", len(train), unit=" batches")
        return ((inputs, targets) for inputs, targets, _ in named)

    def valid_probabilities(network: nn.Module) -> np.ndarray:
        return predict(network, valid, task.hardware, title=f"validating {task.system}")

    return batches, len(train), valid_probabilities


def feature_feeds(task: Task, stores: dict[str, Store], settings: Settings) -> Feeds:
    """The same with the pooled features in place of the images, which a frozen base computes once, without augmentation."""
    device = task.hardware.device
    body = for_prediction(nn.Sequential(*list(task.whole.children())[:-1]), task.hardware)
    features: dict[str, Tensor] = {}
    for name, images in task.lists.items():
        plain = Batches(stores[name], images.labels, task.preprocessing, EVALUATION_BATCH, device)
        rows = progress(plain, f"features of {name}", unit=" batches")
        features[name] = torch.cat([outputs(body, inputs, task.hardware).float() for inputs, _, _ in rows])
        print(f"{task.system}: features of {name} computed, {len(images):,} × {features[name].shape[1]:,}", flush=True)
    labels = torch.from_numpy(task.lists["train"].labels).to(device)
    size = min(settings.batch_size, len(labels))
    steps = len(labels) // size

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(permutation(settings.seed, epoch, len(labels))).to(device)
        return ((features["train"][rows], labels[rows]) for rows in order[: steps * size].split(size))

    @torch.inference_mode()
    def valid_probabilities(network: nn.Module) -> np.ndarray:
        return network(features["valid"]).softmax(dim=1).cpu().numpy()

    return batches, steps, valid_probabilities


# ---- the epochs ----------------------------------------------------------------------------------------------------------------


def train_epoch(training: Training, file: Path, history: Path) -> None:
    """Train an epoch, measure the averaged weights on valid, save both, and print a line."""
    about, settings, epoch, began = training.about, training.settings, len(training.about.history), time.perf_counter()
    train_mode(training.network)
    loss, accuracy, images = optimize(training, epoch)
    trained = time.perf_counter() - began
    probabilities = training.predict(training.ema.network)
    valid_accuracy, valid_loss = score(probabilities, training.labels)
    if not math.isfinite(loss + valid_loss):
        raise UserError(f"{about.model} epoch {epoch + 1}: the loss is no longer finite; use --fresh with lower rates.")
    precision, recall, f1 = macro_scores(probabilities, training.labels)
    row = {
        "epoch": epoch + 1,
        "train_accuracy": accuracy,
        "valid_accuracy": valid_accuracy,
        "train_loss": loss,
        "valid_loss": valid_loss,
        "valid_precision": precision,
        "valid_recall": recall,
        "valid_f1": f1,
        "learning_rate": training.optimizer.param_groups[-1]["lr"],
        "size": settings.size,
        "seconds": round(time.perf_counter() - began, 2),
        "images_per_second": round(images / trained, 1),
    }
    save(training, row, file)
    write_history(history, training.about.history)
    left = 0 if training.about.finished else row["seconds"] * (settings.epochs - epoch - 1)
    scores = f"macro precision {percent(precision)}, recall {percent(recall)}, F1 {percent(f1)}"
    print(
        f"{epoch_line(about.model, row, training.about, settings.epochs)}; {scores}; {duration(left)} left", flush=True
    )


def optimize(training: Training, epoch: int) -> tuple[float, float, int]:
    """The optimizer steps of an epoch. Returns mean loss, accuracy and number of its images."""
    settings, optimizer, steps = training.settings, training.optimizer, training.steps
    totals, images = torch.zeros(2, dtype=torch.float64, device=training.hardware.device), 0
    for number, (inputs, labels) in enumerate(training.batches(epoch), epoch * steps):
        torch.manual_seed(step_seed(settings.seed, number, 0, 0))  # dropout, so that a resumed training draws the same
        with training.hardware.autocast():
            logits = training.network(inputs)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.smoothing)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(number, steps, settings) / settings.lr
        nn.utils.clip_grad_norm_(training.network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        training.ema.update(number)
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)  # those with the largest share, of mixed images
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        totals += torch.stack([loss.detach() * len(labels), correct])
        images += len(labels)
    loss_sum, hits = totals.tolist()
    return loss_sum / images, hits / images, images


def save(training: Training, row: dict[str, float], file: Path) -> None:
    """Add an epoch to the description, keep its weights if they are the best, and write all that a resumed training needs."""
    about, settings = training.about, training.settings
    if rank(row) > best_of(about):
        training.best = {name: tensor.clone() for name, tensor in training.ema.network.state_dict().items()}
        metrics = {name: row[name] for name in ("epoch", "valid_accuracy", "valid_loss")}
        about = replace(about, metrics=metrics)
    stale = bool(settings.patience) and row["epoch"] - about.metrics["epoch"] >= settings.patience
    finished = stale or row["epoch"] == settings.epochs
    training.about = replace(about, history=[*about.history, row], finished=finished)
    states = {"train": training.network.state_dict(), "model": training.ema.network.state_dict(), "best": training.best}
    tensors = {f"{prefix}.{name}": tensor for prefix, state in states.items() for name, tensor in state.items()}
    save_checkpoint(file, training.about, tensors | optimizer_tensors(training.optimizer))


def resume(training: Training, file: Path) -> None:
    """Continue after the last finished epoch in ``file``. Raises :class:`UserError` if it is of another training, or damaged."""
    try:
        values = json.loads(read_header(file)["about"])
        saved = About(
            **known_fields(About, values) | {"preprocessing": Preprocessing.from_dict(values["preprocessing"])}
        )
        now, before = ({**one.settings, "lists": one.lists, "classes": one.classes} for one in (training.about, saved))
        changed = [name for name in now if before.get(name) != now[name]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: the description is damaged ({error!r}); --fresh starts over.") from None
    if changed or saved.preprocessing != training.about.preprocessing:
        name = changed[0] if changed else "preprocessing"
        was = f" ({shown(str(before.get(name)), 70)}, now {shown(str(now[name]), 70)})" if changed else ""
        raise UserError(
            f"{file}: an earlier training has another {name}{was}; repeat its options, or --fresh starts over."
        )
    tensors = read_tensors(file)
    load_strictly(training.network, part(tensors, "train."), file)
    load_strictly(training.ema.network, part(tensors, "model."), file)
    load_optimizer(training.optimizer, tensors, file, begun=True)
    training.best, training.about = part(tensors, "best."), saved
    done = (
        "finished already"
        if saved.finished
        else f"resuming after epoch {len(saved.history)} of {training.settings.epochs}"
    )
    print(f"{saved.model}: {done}, {describe_best(saved)}; --fresh starts over.", flush=True)


# ---- finish --------------------------------------------------------------------------------------------------------------------


def finish(task: Task, training: Training, prepared: float) -> None:
    """Predict valid and the test list with the best weights, and write what ``studies.compare`` needs. D4 and the temperature of
    the probabilities are chosen on valid, as for the lab's networks. ``prepared``: seconds that the features took."""
    whole, hardware, valid, about = task.whole, task.hardware, task.lists["valid"], training.about
    title = f"predicting valid by {task.system}"

    def rows(name: str, images: ImageList, d4: bool) -> np.ndarray:
        batches = stored_batches(task.data.name, name, images, task.preprocessing, hardware.device)
        return predict(whole, batches, hardware, d4, f"{title}{' with D4' * d4}")

    both = {d4: rows("valid", valid, d4) for d4 in (False, True)}
    metrics = dict(about.metrics)
    for d4, ending in ((False, ""), (True, "_d4")):
        metrics[f"valid_accuracy{ending}"], metrics[f"valid_loss{ending}"] = score(both[d4], valid.labels)
    d4 = decide_d4(replace(about, metrics=metrics), "auto")
    temperature = fit_temperature(valid.labels, both[d4])
    settings, epochs = about.settings, len(about.history)
    parameters, macs, frozen = count_network(whole, settings["size"], task.frozen)
    seen = epochs * training.steps * min(settings["batch_size"], len(task.lists["train"]))
    passes = len(task.lists["train"]) if task.args.mode == "frozen" else seen  # of the frozen layers
    system = System(
        name=task.system,
        title=f"{task.base.title}, {MODES[task.args.mode]}",
        base=task.base.name,
        size=settings["size"],
        settings=settings | {"best_epoch": int(about.metrics["epoch"]), "d4": d4, "temperature": temperature},
        parameters=parameters,
        macs=macs,
        training_flop=6.0 * (macs - frozen) * seen + 2.0 * frozen * passes,
        seconds=prepared + sum(row["seconds"] for row in about.history),
    )
    write_system(system, task.data, hardware, valid, scaled(both[d4], temperature), task.args.report / task.data.name)
    images = test_images(task.data)
    if images is not None:
        write_answers(system, task.data, images, rows(TEST_LIST, images, d4).argmax(axis=1))


if __name__ == "__main__":
    run(main, ARGS)
