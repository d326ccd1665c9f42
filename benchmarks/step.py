"""Images per second of training, data included: ours against the loop that a peer writes, and the networks alone.

    python benchmarks/step.py                                       # quick: 18, 50 and 152 at 64 px on the sample
    python benchmarks/step.py --sizes 64 128 --seconds 5 --data ../shared/data/pbc8 --keep step
    python benchmarks/step.py --sizes 224 --rounds 1 --seconds 5 --data ../shared/data/pbc8 --keep step_224

Ours: Batches from the store, augmented on the device, and the step of train.py. The peer's: torchvision's network, float32,
default memory format, Pillow transforms per image in a DataLoader with as many workers as cores, SGD, the loss read in every
step. Both see the same images at the same size and batch with the same kinds of augmentation. "Network alone" is forward and
backward on one batch in memory under equal settings (precision, channels last) for both networks, ours with the gradients that
train.py gives it. Memory is kept between steps for both sides, as train.py does: they share the process. Sides are alternated
within one run, so that a change in the machine's speed meets both.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import resnet
from benchmarks.machine import describe, keep, keep_option
from lab.cpu.winograd import use_fast_gradients
from lab.data.batches import Batches
from lab.data.lists import ImageList, read_data_set, read_list
from lab.data.preprocessing import Preprocessing, measured_preprocessing
from lab.data.store import open_stores
from lab.hardware import Hardware, choose_hardware, decoding_threads
from lab.training.ema import EMA
from lab.training.recipe import chosen_settings, make_optimizer
from models import catalog
from train import arguments

BATCH = 32
Step = Callable[[], None]


# The same kinds of augmentation as ours.
AUGMENTATION = [
    transforms.RandomHorizontalFlip(),
    transforms.RandomAffine(180, (0.05, 0.05), (0.9, 1.1)),
    transforms.ColorJitter(0.06, 0.06, 0.06),
]


class Files(Dataset[tuple[torch.Tensor, int]]):
    """What a peer writes: an image file a time, through Pillow, with ``augmentation`` of the Pillow image."""

    def __init__(
        self, images: ImageList, window: int, size: int, augmentation: Sequence[Callable[..., object]] = ()
    ) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.CenterCrop(window),
                transforms.Resize(size),
                *augmentation,
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.images.paths[index]) as opened:
            return self.transform(opened.convert("RGB")), int(self.images.labels[index])


def ours(
    model: str,
    batches: Batches,
    hardware: Hardware,
    classes: int,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Iterator[Step]:
    """Steps as train.py takes them with its default settings, over and over the training list; ``wrap`` may compile."""
    preprocessing = Preprocessing(64, 128, batches.preprocessing.size, "cell")
    settings = chosen_settings(model, arguments().parse_args([]), {}, hardware, preprocessing)
    network = catalog.build(model, classes, batches.preprocessing.size)
    resnet.zero_init_residual(network)
    hardware.place(network).train()
    use_fast_gradients(network, hardware)
    optimizer = make_optimizer(network, settings, hardware.precision)
    ema = EMA(network, settings.ema)
    forward = wrap(network)
    feed = itertools.chain.from_iterable(itertools.repeat(batches))

    def step() -> None:
        images, labels, _ = next(feed)
        with hardware.autocast():
            loss = functional.cross_entropy(forward(images), labels, label_smoothing=settings.smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(0)

    while True:
        yield step


def peers(model: str, images: ImageList, window: int, size: int, hardware: Hardware, classes: int) -> Iterator[Step]:
    """Steps of a peer's loop; its workers are started anew for each round."""
    network, optimizer = peers_network(model, hardware, classes)
    workers = decoding_threads()
    files = Files(images, window, size, AUGMENTATION)
    loader = DataLoader(files, BATCH, shuffle=True, num_workers=workers, drop_last=len(images) >= BATCH)
    while True:
        feed = itertools.chain.from_iterable(itertools.repeat(loader))

        def step(feed: Iterator[tuple[torch.Tensor, torch.Tensor]] = feed) -> None:
            inputs, labels = next(feed)
            peers_step(network, optimizer, inputs, labels, hardware)

        yield step


def peers_network(model: str, hardware: Hardware, classes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """torchvision's network and plain SGD, as a peer sets them up."""
    network = getattr(torchvision.models, model)(num_classes=classes).to(hardware.device).train()
    return network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)


def peers_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    hardware: Hardware,
) -> float:
    """A peer's training step on a batch from the loader; the loss, read in every step."""
    inputs, labels = inputs.to(hardware.device), labels.to(hardware.device)
    optimizer.zero_grad()
    loss = functional.cross_entropy(network(inputs), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def alone(network: nn.Module, size: int, hardware: Hardware, classes: int) -> Iterator[Step]:
    """Forward and backward on one batch in memory, as fast as the hardware allows."""
    hardware.place(network).train()
    if isinstance(network, resnet.ResNet):
        use_fast_gradients(network, hardware)
    images = torch.randn(BATCH, 3, size, size, device=hardware.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (BATCH,), device=hardware.device)

    def step() -> None:
        with hardware.autocast():
            loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        network.zero_grad(set_to_none=True)

    while True:
        yield step


def rates(sides: list[Iterator[Step]], rounds: int, seconds: float, hardware: Hardware) -> list[float]:
    """Images per second of each side: the median over the rounds, in each of which every side in turn takes one step to warm up
    and then timed ones, about ``seconds`` of them."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, seen in zip(sides, found, strict=True):
            step = next(side)
            step()  # the first one may compile, or wait for workers to start
            hardware.synchronise()
            passed, steps = timed(step, 1, hardware), 1
            if passed < seconds:
                steps = math.ceil(seconds / passed)
                passed = timed(step, steps, hardware)
            seen.append(BATCH * steps / passed)
            time.sleep(1)  # a peer's workers fill their queues, and rest
    return [statistics.median(seen) for seen in found]


def timed(step: Step, count: int, hardware: Hardware) -> float:
    """Seconds that so many steps take."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    hardware.synchronise()
    return time.perf_counter() - began


def main() -> None:
    """Time all sides and keep one table."""
    parser = argparse.ArgumentParser(description="Images per second of training, ours against a peer's.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--root")
    parser.add_argument("--models", nargs="+", default=catalog.depths())
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="of timed steps of each side in a round (default: 1.5)"
    )
    keep_option(parser, "step")
    args = parser.parse_args()
    hardware = choose_hardware()
    data = read_data_set(args.data, args.root)
    images = read_list(data, "train", labelled=True)
    classes = len(data.classes)
    rounds = f"medians of {args.rounds} rounds" if args.rounds > 1 else "one round"
    lines = [
        describe(),
        f"{data.name}, batches of {BATCH}, {hardware.precision}; images/s, {rounds} of about {args.seconds:g} s",
        "",
    ]
    lines += [
        "| model | px | ours | peer's loop | ratio | our network alone | torchvision's | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            preprocessing = measured_preprocessing(images, size)
            store = open_stores({"train": images}, preprocessing, Path(folder))["train"]
            batches = Batches(store, images.labels, preprocessing, BATCH, hardware.device, 0)
            for model in args.models:
                sides = [ours(model, batches, hardware, classes)]
                sides += [peers(model, images, preprocessing.window, size, hardware, classes)]
                mine, theirs = rates(sides, args.rounds, args.seconds, hardware)
                networks = catalog.build(model, classes, size), getattr(torchvision.models, model)(num_classes=classes)
                pair = rates([alone(n, size, hardware, classes) for n in networks], args.rounds, args.seconds, hardware)
                row = f"| {model} | {size} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} "
                lines.append(row + f"| {pair[0]:.1f} | {pair[1]:.1f} | {pair[0] / pair[1]:.2f} |")
                print(lines[-1], flush=True)
                keep(args.keep, lines, quiet=True)  # a row may take minutes; what is measured stays
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
