"""Forecasts the duration of a run, and of a smaller one, from measured steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice

from torch import nn
from torch.nn import functional

from lab.data.batches import Batch, Batches
from lab.distributed import Ranks
from lab.errors import out_of_memory
from lab.evaluation.inference import for_prediction, probabilities
from lab.hardware import Hardware
from lab.text import counted, duration
from lab.training.recipe import Settings, clip_gradients, divide, make_optimizer, size_at
from models.catalog import find


@dataclass(frozen=True)
class Pace:
    """Seconds of a pass over the training list and over valid, each at a ``small`` and at the ``full`` image size in px."""

    small: int
    full: int
    train: tuple[float, float]
    valid: tuple[float, float]

    def epoch(self, size: int) -> float:
        """Seconds of an epoch at ``size`` px."""
        return self.between(self.train, size) + self.between(self.valid, size)

    def between(self, seconds: tuple[float, float], size: int) -> float:
        """Seconds at ``size`` px, linear in the image area; below the small size at least in proportion to the area."""
        span = self.full**2 - self.small**2
        share = (size**2 - self.small**2) / span if span else 0.0
        linear = seconds[0] + share * (seconds[1] - seconds[0])
        return max(linear, seconds[0] * (size / self.small) ** 2) if size < self.small else linear

    def run(self, settings: Settings, done: int = 0) -> float:
        """Seconds of a run, or of the rest after ``done`` epochs, including the final pass over valid in eight D4 views."""
        epochs = sum(self.epoch(size_at(epoch, settings)) for epoch in range(done, settings.epochs))
        return epochs + 8 * self.between(self.valid, settings.size)


def measure(
    network: nn.Module,
    settings: Settings,
    hardware: Hardware,
    train: Batches,
    valid: Batches,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Pace:
    """Time one training step and one evaluation batch, loading included, at the smallest size and at the run's size. The step
    trains ``wrap`` of a copy of the network, so that the run itself does not change."""
    copied = copy.deepcopy(network).train()
    wrapped = wrap(copied)
    optimizer = make_optimizer(copied, settings, hardware.precision)
    evaluated = for_prediction(network, hardware)
    steady = Hardware(hardware.device, hardware.precision)  # the number of threads does not change meanwhile
    least = find(settings.model).least_input(settings.size)
    sizes = sorted({max(least, settings.size // 2), settings.size})
    seconds: list[tuple[float, float]] = []
    for size in sizes:
        # One pass provides both steps, because starting a pass takes longer than a step. A pass may have a single batch.
        feed = chain.from_iterable(train.epoch(0, size) for _ in count())

        def step(feed: Iterator[Batch] = feed) -> None:
            images, labels, _ = next(feed)
            with hardware.autocast():
                loss = functional.cross_entropy(wrapped(images), labels)
            loss.backward()
            if settings.clip:
                clip_gradients(copied.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def evaluate(size: int = size) -> None:
            for images, _, _ in islice(valid.epoch(size=size), 1):  # one of several processes may have no batch
                probabilities(evaluated, images, steady)

        train_seconds, valid_seconds = timed(step, hardware), timed(evaluate, hardware)
        seconds.append((len(train) * train_seconds, len(valid) * valid_seconds))
    (train_small, valid_small), (train_full, valid_full) = seconds[0], seconds[-1]
    return Pace(sizes[0], sizes[-1], (train_small, train_full), (valid_small, valid_full))


def measure_what_fits(
    network: nn.Module, settings: Settings, hardware: Hardware, train: Batches, valid: Batches, ranks: Ranks, parts: int
) -> tuple[Batches, int, Pace]:
    """:func:`measure`, with the batch split into more ``parts`` until a step fits into the device's memory. Returns the batches
    of one part each, the number of parts, and the pace. Raises :class:`UserError` if two images at once do not fit."""
    while True:
        try:
            pace = measure(network, settings, hardware, train, valid)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            pace = None
        if not ranks.any(pace is None) and pace is not None:
            return train, parts, pace
        part_size, parts = divide(settings, ranks, train.count, at_once=train.batch_size // 2)
        train = train.with_batch_size(part_size)
        print(
            f"batch: does not fit into the memory of {hardware.device}; split into {parts} parts, as by --accumulate; "
            "batch norm's statistics are those of a part"
        )


def timed(work: Callable[[], None], hardware: Hardware) -> float:
    """Seconds of the second call of ``work``; in the first call libraries choose their kernels."""
    work()
    hardware.synchronise()
    began = time.perf_counter()
    work()
    hardware.synchronise()
    return time.perf_counter() - began


def forecast(pace: Pace, settings: Settings, done: int = 0, share: float = 0.0) -> str:
    """One line with the duration of the run and of smaller ones, if they are faster. For a run that resumes after ``done`` epochs
    and a ``share`` of the next, only the time left."""
    whole = pace.run(settings, done)
    if done or share:
        whole -= share * pace.epoch(size_at(done, settings))
        return f"time: about {duration(whole)} left, from a measured step"
    smaller = max(find(settings.model).least_input(settings.size), round(0.75 * settings.size / 16) * 16)
    others = [replace(settings, size=smaller), replace(settings, epochs=(settings.epochs + 1) // 2)]
    costs = [
        (f"--{name} {getattr(other, name)}", pace.run(other))
        for name, other in zip(("size", "epochs"), others, strict=True)
    ]
    # A smaller size may be slower, if the device has a worse kernel for it. Two measurements differ by a few percent anyway.
    less = [f"{option} about {duration(cost)}" for option, cost in costs if cost < 0.95 * whole]
    line = f"time: about {duration(whole)} for {counted(settings.epochs, 'epoch')}, from a measured step"
    return f"{line}; {' and '.join(less)}" if less else line
