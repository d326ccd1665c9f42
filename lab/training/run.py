"""The state of one training: its files, network, data and progress."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lab.checkpoints.checkpoint import (
    About,
    TrainingState,
    load_optimizer,
    load_strictly,
    optimizer_tensors,
    part,
    read_tensors,
)
from lab.checkpoints.histories import write_run
from lab.data.batches import Batch, Batches
from lab.distributed import Ranks
from lab.evaluation.inference import outputs
from lab.hardware import Hardware
from lab.terminal import progress
from lab.threads import described
from lab.training.ema import EMA
from lab.training.recipe import Settings, size_at


class Diverged(Exception):
    """The loss or the weights are no longer finite numbers."""


@dataclass(frozen=True)
class RunFiles:
    """The files of one model's training on one data set, in subfolders of ``--weights`` and ``--report``."""

    weights: Path  # weights/<data>/<model>
    report: Path  # report/<data>

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch by valid accuracy."""
        return self.weights / "best.safetensors"

    @property
    def last(self) -> Path:
        """The checkpoint that a training resumes from."""
        return self.weights / "last.safetensors"

    @property
    def history(self) -> Path:
        """One row per epoch, as CSV."""
        return self.report / f"history_{self.weights.name}.csv"

    @property
    def log(self) -> Path:
        """What the run printed on the terminal."""
        return self.report / f"log_{self.weights.name}.txt"

    @property
    def description(self) -> Path:
        """Settings, versions and images of the run, as JSON."""
        return self.report / f"run_{self.weights.name}.json"


@dataclass
class Run:
    """Everything that the training steps use.

    ``about`` is the description of the next checkpoint; it is replaced, never modified. ``state`` is the progress. ``train``
    yields parts of a batch, and ``accumulate`` parts make one optimizer step. ``forward`` is the network as it is called: wrapped
    for several processes, or compiled. ``repeated_threads`` are the numbers of threads of the run that is repeated, as in
    :class:`About`. ``totals`` are the loss and the number of correct predictions, summed over this rank's
    images of the epoch so far, float64 [2]. They stay on the device, because reading them in every step would make a GPU wait.
    """

    files: RunFiles
    about: About
    state: TrainingState
    settings: Settings
    hardware: Hardware
    ranks: Ranks
    train: Batches
    valid: Batches
    valid_labels: np.ndarray
    network: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    class_weight: Tensor | None
    accumulate: int
    repeated_threads: list[list[int]] = field(default_factory=list)
    parallel: nn.Module = field(init=False)
    forward: Callable[[Tensor], Tensor] = field(init=False)
    totals: Tensor = field(init=False)
    began: float = 0.0  # start of the current epoch, by time.perf_counter()

    def __post_init__(self) -> None:
        self.forward = self.parallel = self.network
        # Sums of float32 are exact in float64, so that an interruption does not change them. Apple's GPUs have no float64.
        exact = torch.float32 if self.hardware.device.type == "mps" else torch.float64
        self.totals = torch.zeros(2, device=self.hardware.device, dtype=exact)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.about.model

    @functools.cached_property
    def has_dropout(self) -> bool:
        """Whether the network draws random numbers in training."""
        return any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.network.modules())

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return len(self.train) // self.accumulate

    @property
    def images(self) -> int:
        """Images that all ranks train on in an epoch."""
        return self.ranks.count * self.steps * self.accumulate * self.train.batch_size

    def begin_epoch(self) -> None:
        """Restore the sums of an interrupted epoch, or set them to zero at the start of an epoch."""
        sums = [self.state.loss_sum, self.state.correct] if self.ranks.first else [0.0, 0.0]
        self.totals[:] = torch.tensor(sums, dtype=self.totals.dtype)
        self.began = time.perf_counter() - self.state.seconds
        self.network.train()

    def optimizer_steps(
        self, after_step: Callable[[int], None]
    ) -> Iterator[tuple[int, Iterator[tuple[Tensor, Tensor]]]]:
        """Yield the remaining optimizer steps of the current epoch: the step's number since the run began, and its parts.

        A part is images [B, 3, size, size] and labels [B], or shares of the classes [B, K]. Gradients are averaged over the ranks
        in the last part of a step only. After each step, ``after_step`` is called with the number of finished steps.
        """
        epoch, first = self.state.epoch, self.state.step
        begin = first * self.accumulate
        batches = self.train.epoch(epoch, size_at(epoch, self.settings), begin)
        title = f"{self.model} epoch {epoch + 1}/{self.settings.epochs}"
        scale = self.ranks.count * self.train.batch_size
        bar = progress(batches, title, len(self.train), initial=begin, unit_scale=scale)
        parts = iter(bar)
        self.hardware.threads.begin(("training", self.model, size_at(epoch, self.settings)))
        for step in range(first, self.steps):
            self.note_threads(epoch * self.steps + step)
            yield epoch * self.steps + step, self.parts(parts)
            self.hardware.threads.after_step(self.predict_sample, self.train.batch_size)
            after_step(step + 1)
        bar.close()

    def choose_threads(self, repeated: list[list[int]]) -> None:
        """Set the number of CPU threads before the first step: that of the interrupted run, those of the ``repeated`` run, or the
        fastest by measurement. A number that is fixed stays."""
        threads, noted = self.hardware.threads, self.about.threads
        if self.hardware.device.type != "cpu":
            return
        if threads.fixed:
            if noted and noted[-1][1] != threads.number:
                self.print_change(noted[-1][1])
        elif repeated:
            self.repeated_threads, threads.due = repeated, math.inf  # no comparison
            slow = "; more than this machine's CPUs, so --threads is faster, with other last digits"
            many = max(number for _, number in repeated) > threads.limit
            print(f"threads: {described(repeated)}, as in the repeated run{slow * many}")
        elif noted:
            threads.keep(min(noted[-1][1], threads.limit))
            if threads.number == noted[-1][1]:
                print(f"threads: {threads.number}, as when the run was interrupted")
            else:
                self.print_change(noted[-1][1])
        else:
            threads.compare(self.predict_sample)

    def print_change(self, before: int) -> None:
        """Print that the number of threads is no longer that of the interrupted run."""
        change = f"threads {before} → {self.hardware.threads.number}"
        print(f"{self.model}: resumes with changes that may alter the last digits: {change}")

    def note_threads(self, step: int) -> None:
        """Set the number of threads that the repeated run had at an optimizer step, and note a change in the description, because
        the number decides the rounding of sums."""
        threads, noted = self.hardware.threads, self.about.threads
        if self.repeated_threads:
            past = [number for first, number in self.repeated_threads if first <= step]
            threads.use(past[-1] if past else self.repeated_threads[0][1])  # a run may have begun on a GPU
        if self.hardware.device.type == "cpu" and (not noted or noted[-1][1] != threads.number):
            self.about = replace(self.about, threads=[*noted, [step, threads.number]])
            if self.ranks.first:
                write_run(self.files.description, self.about)

    def predict_sample(self) -> Tensor:
        """A forward pass of a few images, which changes nothing in the run; its duration compares numbers of threads."""
        size = size_at(self.state.epoch, self.settings)
        count = min(self.hardware.threads.images, self.train.batch_size)
        images = torch.zeros(count, 3, size, size, device=self.hardware.device)
        return outputs(self.ema.network, images, self.hardware)

    def parts(self, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of one optimizer step."""
        for number, (images, labels, _) in enumerate(islice(batches, self.accumulate), 1):
            with self.ranks.local(self.parallel, number < self.accumulate):
                yield images, labels

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a part's summed loss and its correct predictions to the totals. The class of a mixed image is the one with the
        largest share."""
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        correct = (logits.detach().argmax(dim=1) == classes).float().sum()
        self.totals += torch.stack([loss.detach(), correct])

    def sums(self) -> tuple[float, float]:
        """Loss and correct predictions of all ranks so far. Raises :class:`Diverged` if the loss is not finite."""
        loss_sum, correct = self.ranks.sum(self.totals.clone()).tolist()
        if not math.isfinite(loss_sum):
            raise Diverged(f"{self.model} epoch {self.state.epoch + 1}: the loss is no longer a finite number")
        return loss_sum, correct

    def check_finite(self) -> None:
        """Raise :class:`Diverged` if a weight is not finite on any rank."""
        tensors = [*self.network.state_dict().values(), *self.ema.network.state_dict().values()]
        if self.ranks.any(not all(bool(tensor.isfinite().all()) for tensor in tensors)):
            raise Diverged(f"{self.model} epoch {self.state.epoch + 1}: the weights are no longer finite numbers")

    def averaged_tensors(self) -> dict[str, Tensor]:
        """The tensors of a best checkpoint: the averaged weights."""
        return {f"model.{name}": tensor for name, tensor in self.ema.network.state_dict().items()}

    def training_tensors(self) -> dict[str, Tensor]:
        """The tensors of a last checkpoint: the averaged weights, the raw weights and the optimizer's state."""
        raw = {f"train.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return self.averaged_tensors() | raw | optimizer_tensors(self.optimizer)

    def load_last_checkpoint(self) -> None:
        """Load the tensors of :meth:`training_tensors`. Raises :class:`UserError` if they do not match."""
        state, last = self.state, self.files.last
        tensors = read_tensors(last)
        load_strictly(self.network, part(tensors, "train."), last)
        load_strictly(self.ema.network, part(tensors, "model."), last)
        load_optimizer(self.optimizer, tensors, last, begun=bool(state.epoch or state.step) and not state.scaler)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
