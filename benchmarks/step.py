"""Images per second of training, including the data: ours against a peer's loop, and the networks alone.

    python -m benchmarks.step                                       # quick: 18, 50 and 152 at 64 px on the sample
    python -m benchmarks.step --sizes 64 128 --seconds 5 --data ../shared/data/pbc8 --keep step
    python -m benchmarks.step --sizes 224 --rounds 1 --seconds 5 --data ../shared/data/pbc8 --keep step_224

Ours: batches from the store, augmented on the device, and the step of train.py. The peer's: torchvision's network, float32,
default memory format, Pillow transforms per image in a DataLoader with as many workers as cores, SGD, the loss read in every
step. Both use the same images, input size, batch size and kinds of augmentation. "Network alone" is forward and backward on one
batch in memory, with the same precision and memory format for all networks: ours with measured algorithms of convolutions, ours
with the fixed ones, and torchvision's. All run in one process and take turns, so that a change of its speed affects all: by
rounds of a few seconds with data, by single steps without.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import resnet
from benchmarks.machine import describe, keep, keep_option, table_head
from lab.cpu.convolutions import replace_convolutions
from lab.cpu.fastest import measured_table
from lab.data.batches import STORES, Batches
from lab.data.lists import ImageList, read_data_set, read_list
from lab.data.preprocessing import Preprocessing, measured_preprocessing
from lab.data.store import open_stores
from lab.hardware import Hardware, choose_hardware
from lab.threads import decoding_threads
from lab.training.ema import EMA, interval
from lab.training.recipe import chosen_settings, clip_gradients, make_optimizer
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
    """A peer's data set: each item is read from its file by Pillow, with ``augmentation`` of the Pillow image."""

    def __init__(
        self, images: ImageList, window: int, size: int, augmentation: Sequence[Callable[..., object]] = ()
    ) -> None:
        self.images = images
        before = [transforms.CenterCrop(window), transforms.Resize(size)]
        after = [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))]
        self.transform = transforms.Compose([*before, *augmentation, *after])

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
    """Steps of train.py with its default settings, repeating the training list; ``wrap`` may compile the network."""
    preprocessing = Preprocessing(64, 128, batches.preprocessing.size, "cell")
    settings = chosen_settings(model, arguments().parse_args([]), {}, hardware, preprocessing)
    network = catalog.build(model, classes, batches.preprocessing.size)
    resnet.zero_init_residual(network)
    hardware.place(network).train()
    use_fastest(network, batches.preprocessing.size, hardware)
    optimizer = make_optimizer(network, settings, hardware.precision)
    ema = EMA(network, settings.ema, interval(settings.ema, len(batches)))
    forward = wrap(network)
    feed, numbers = itertools.chain.from_iterable(itertools.repeat(batches)), itertools.count()

    def step() -> None:
        images, labels, _ = next(feed)
        with hardware.autocast():
            loss = functional.cross_entropy(forward(images), labels, label_smoothing=settings.smoothing)
        loss.backward()
        clip_gradients(network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(next(numbers))

    while True:
        yield step


def use_fastest(network: nn.Module, size: int, hardware: Hardware) -> nn.Module:
    """Use the measured algorithms of convolutions, as train.py does in a long run. Returns the network."""
    if hardware.device.type == "cpu":
        replace_convolutions(network, {})
        replace_convolutions(network, measured_table(network, [size], BATCH, hardware, STORES / "convolutions.json"))
    return network


def fixed(network: nn.Module, hardware: Hardware) -> nn.Module:
    """Use the fixed algorithms, as train.py does in a short run. Returns the network."""
    if hardware.device.type == "cpu":
        replace_convolutions(network, {})
    return network


def peers(model: str, images: ImageList, window: int, size: int, hardware: Hardware, classes: int) -> Iterator[Step]:
    """Steps of a peer's loop; each round starts its workers anew."""
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
    """A peer's network and optimizer: torchvision's and plain SGD."""
    network = getattr(torchvision.models, model)(num_classes=classes).to(hardware.device).train()
    return network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)


def peers_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor, hardware: Hardware
) -> float:
    """A peer's training step on a batch from the loader; returns the loss."""
    inputs, labels = inputs.to(hardware.device), labels.to(hardware.device)
    optimizer.zero_grad()
    loss = functional.cross_entropy(network(inputs), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def alone(network: nn.Module, size: int, hardware: Hardware, classes: int) -> Iterator[Step]:
    """Steps of forward and backward on one batch in memory, in the hardware's fastest precision and memory format."""
    hardware.place(network).train()
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
    """Images per second of each side, the median over the rounds. In a round each side takes one step for warm-up and then timed
    steps for about ``seconds``."""
    results: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, result in zip(sides, results, strict=True):
            step = next(side)
            step()  # the first one may compile, or wait for workers to start
            hardware.synchronise()
            passed, steps = timed(step, 1, hardware), 1
            if passed < seconds:
                steps = math.ceil(seconds / passed)
                passed = timed(step, steps, hardware)
            result.append(BATCH * steps / passed)
            time.sleep(1)  # a peer's workers fill their queues and become idle
    return [statistics.median(result) for result in results]


def rates_by_turns(sides: list[Iterator[Step]], seconds: float, hardware: Hardware) -> list[float]:
    """Images per second of each side by the median of its steps. The sides take single steps by turns, because the speed of a
    shared machine changes within seconds. This needs steps that nothing prepares meanwhile, such as the workers of a loader."""
    steps = [next(side) for side in sides]
    taken: list[list[float]] = [[] for _ in sides]
    for step in steps:
        step()  # libraries choose their kernels
    while sum(map(sum, taken)) < seconds * len(sides):
        for step, result in zip(steps, taken, strict=True):
            result.append(timed(step, 1, hardware))
    return [BATCH / statistics.median(result) for result in taken]


def timed(step: Step, count: int, hardware: Hardware) -> float:
    """Seconds that ``count`` steps take."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    hardware.synchronise()
    return time.perf_counter() - began


def main() -> None:
    """Time all sides and write one table."""
    parser = argparse.ArgumentParser(description="Images per second of training, ours against a peer's.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--root")
    parser.add_argument("--models", nargs="+", default=catalog.depths())
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of timed steps per side and round (default: 1.5)")
    keep_option(parser, "step")
    args = parser.parse_args()
    hardware = choose_hardware()
    data = read_data_set(args.data, args.root)
    images = read_list(data, "train", labelled=True)
    classes = len(data.classes)
    rounds = f"medians of {args.rounds} rounds" if args.rounds > 1 else "one round"
    title = f"{data.name}, batches of {BATCH}, {hardware.precision}; images/s, {rounds} of about {args.seconds:g} s"
    columns = (
        "model | px | ours | peer's loop | ratio | our network alone | fixed algorithms | ratio | torchvision's | ratio"
    )
    lines = [describe(), title, "", *table_head(columns)]
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            preprocessing = measured_preprocessing(images, size)
            store = open_stores({"train": images}, preprocessing, Path(folder))["train"]
            batches = Batches(store, images.labels, preprocessing, BATCH, hardware.device, 0)
            for model in args.models:
                sides = [ours(model, batches, hardware, classes)]
                sides += [peers(model, images, preprocessing.window, size, hardware, classes)]
                mine, theirs = rates(sides, args.rounds, args.seconds, hardware)
                networks = [
                    use_fastest(catalog.build(model, classes, size), size, hardware),
                    fixed(catalog.build(model, classes, size), hardware),
                    getattr(torchvision.models, model)(num_classes=classes),
                ]
                sides = [alone(network, size, hardware, classes) for network in networks]
                best, *others = rates_by_turns(sides, args.rounds * args.seconds, hardware)
                cells = [f"{mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} | {best:.1f}"]
                cells += [f"{other:.1f} | {best / other:.2f}" for other in others]
                lines.append(f"| {model} | {size} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
                keep(args.keep, lines, quiet=True)  # a row may take minutes: keep finished rows if interrupted
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
