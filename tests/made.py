"""Helpers of the tests: generated data sets, thin networks, commands, and trainings that are stopped or fail."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import train
from lab.checkpoints.checkpoint import About, TrainingState, part, read_about, read_tensors, save_checkpoint
from lab.data.augmentation import normalise, resample
from lab.data.images import read_image
from lab.data.preprocessing import Preprocessing
from lab.signals import Stopped
from lab.training import snapshots
from lab.training.ema import EMA
from lab.training.recipe import Settings
from models import catalog
from resnet import BasicBlock

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
Run = Callable[..., int | None]  # the fixture run

PATIENCE = 300  # seconds after which a run is assumed to hang
PROJECT = Path(__file__).resolve().parents[1]
TIMES = ["seconds", "images_per_second"]  # the only columns of a history that differ when a run is repeated
DEPTHS = ["resnet18", "resnet50", "resnet152"]
TRAIN, VALID, TEST = COUNTS = (24, 12, 10)  # images of the generated lists
FAST = ["--size", "32", "--epochs", "3", "--batch-size", "8", "--lr", "0.1", "--ema", "0.5"]
FAST += ["--precision", "fp32", "--device", "cpu"]
LONG = ["--data", "csv/tiny", *FAST, "--epochs", "8", "--batch-size", "4"]  # 48 steps
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
LAST = Path("weights", "tiny", "resnet18", "last.safetensors")
BEST = LAST.with_name("best.safetensors")
HISTORY = Path("report", "tiny", "history_resnet18.csv")
GPU_MEMORY = torch.OutOfMemoryError("CUDA out of memory.")
CPU_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried …")


class Thin(nn.Module):
    """A network with the layers of a ResNet (convolution, norm, block, pooling, classifier) that trains in milliseconds."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = BasicBlock(width, 2 * width, 2)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        return self.fc(x.mean((2, 3)))


def thin(name: str, classes: int = 2, size: int = 32) -> Thin:
    """Replaces ``catalog.build``. Each depth has another width, so that no depth can load the weights of another."""
    return Thin(classes, {"resnet18": 4, "resnet34": 5, "resnet50": 6, "resnet101": 7, "resnet152": 8}[name])


def cell(rng: np.random.Generator, label: int) -> np.ndarray:
    """A noisy disc on black, uint8 [48, 48, 3]; size and colour depend on the label."""
    y, x = np.mgrid[:48, :48]
    radius = 8 + 4 * label + rng.uniform(-3, 3)
    disc = np.hypot(y - 23.5 - rng.uniform(-2, 2), x - 23.5 - rng.uniform(-2, 2)) < radius
    colour = np.array([90 + 30 * label, 60, 140 - 20 * label]) + rng.normal(0, 20, (48, 48, 3))
    return (disc[..., None] * colour.clip(20, 255)).astype(np.uint8)


def make_data(folder: Path, classes: int = 2, seed: int = 0, counts: Sequence[int] = COUNTS, kind: str = "png") -> Path:
    """Write a data set in the lab's format: images, ``train.csv``, ``valid.csv``, and the same test list in three orders.
    ``counts`` are the images of train, valid and test."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    if classes == 2:
        (folder / "classes.csv").write_text("label,name\n0,normal\n1,leukemia blast\n")
    for name, images in zip(("train", "valid", "test"), counts, strict=True):
        (folder / name).mkdir()
        labels = np.arange(images) % classes
        ids = [f"./{name}/{index}.{kind}" for index in range(images)]
        for path, label in zip(ids, labels, strict=True):
            Image.fromarray(cell(rng, int(label))).save(folder / path)
        if name != "test":
            pd.DataFrame({"Path": ids, "label": labels}).to_csv(folder / f"{name}.csv", index=False)
            continue
        for depth in (18, 50, 152):
            shuffled = [ids[i] for i in rng.permutation(images)]
            # The lab's test lists have no final newline.
            (folder / f"resnet_{depth}_test.csv").write_text("\n".join(["Path", *shuffled]))
    return folder


@contextmanager
def inside(folder: Path, network: Any = thin, figures: bool = True) -> Iterator[pytest.MonkeyPatch]:
    """Work in ``folder`` with ``network`` in place of ``catalog.build``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(catalog, "build", network)
        if not figures:
            patch.setattr(train, "draw_data_figures", lambda *_: None)
            patch.setattr(train, "redraw_accuracy", lambda *_, **__: None)
        yield patch


def command(module: ModuleType, *options: str | Path) -> int | None:
    """Run a command in this process with these options; returns its status."""
    args = module.arguments().parse_args([*map(str, options)])
    module.check_paths(args)
    status: int | None = module.main(args)
    return status


class Trainer:
    """Trains in child processes that can be killed; see thin_train.py. ``before`` is a command line that starts it."""

    def __init__(self, *before: str, **environment: str) -> None:
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"} | environment
        variables["PYTHONPATH"] = str(PROJECT)
        script = [*before, sys.executable, str(PROJECT / "tests" / "thin_train.py")]
        pipe = subprocess.PIPE
        # Unbuffered: a line that is read ahead with the one before it would be hidden from select.
        self.server = subprocess.Popen(script, env=variables, stdin=pipe, stdout=pipe, bufsize=0)
        assert self.server.stdout and self.server.stdout.readline() == b"ready\n"

    def start(self, folder: Path, *options: str, command: str = "", ranks: int = 1, **environment: str) -> int:
        """Start a training in one process or several, or another command. Returns the first process; ``children`` are all."""
        variables = [environment]
        if ranks > 1:
            with socket.socket() as free:  # over loopback, because the machine's name may not resolve
                free.bind(("127.0.0.1", 0))
                address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), **LOOPBACK}
            several = {"WORLD_SIZE": str(ranks), **address, **environment}
            variables = [several | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([str(folder), command, options, variables]).encode() + b"\n")
        self.children = [*map(int, self.server.stdout.readline().split())]
        return self.children[0]

    def run(self, folder: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Start it and wait until it ends."""
        self.start(folder, *options, **more)
        rank = "0" if more.get("ranks", 1) > 1 else ""
        status = self.status()
        files = [folder / f"{name}{rank}" for name in ("stdout", "stderr")]
        texts = [file.read_text(encoding="utf-8") for file in files]
        for file in files:
            file.unlink()
        return subprocess.CompletedProcess(options, status, *texts)

    def script(self, folder: Path, name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the checkout in ``folder`` as ``python NAME OPTIONS`` would, with the networks that it has."""
        return self.run(folder, *map(str, options), command=str(PROJECT / name))

    @contextmanager
    def held(self, folder: Path, step: int, *options: str, **more: Any) -> Iterator[int]:
        """Start a training that waits after step number ``step`` until the block ends. Yields the first process."""
        (folder / "hold").write_text(str(step))
        process, limit = self.start(folder, *options, **more), time.monotonic() + PATIENCE
        while not (folder / "held").exists() and Path(f"/proc/{process}").exists():
            assert time.monotonic() < limit, "the run neither ends nor reaches the step"
            time.sleep(0.002)
        yield process
        (folder / "hold").unlink()

    def status(self) -> int:
        """Wait until it ends. Returns its exit status, or minus the number of the signal that ended it."""
        assert self.server.stdout
        ready, _, _ = select.select([self.server.stdout], [], [], PATIENCE)
        assert ready, "the run does not end"
        return int(self.server.stdout.readline())

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(10)


@contextmanager
def interrupted(at: int = 1, written: bool = True) -> Iterator[None]:
    """Stop the training of the block as Ctrl-C would: just after its last checkpoint of epoch ``at`` is written, or before."""

    def save_and_stop(path: Path, about: About, tensors: dict[str, Tensor], state: TrainingState) -> None:
        if state.epoch != at or written:
            save_checkpoint(path, about, tensors, state)
        if state.epoch == at:
            raise KeyboardInterrupt

    with Patch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(snapshots, "save_checkpoint", save_and_stop)
        yield


@contextmanager
def signalled(target: Any, name: str, at: int, *numbers: int) -> Iterator[pytest.ExceptionInfo[Stopped]]:
    """Send this process signals in the ``at``-th call of a function, which stops the training of the block."""
    calls, function = count(1), getattr(target, name)

    def signalling(*args: Any, **options: Any) -> Any:
        for number in numbers if next(calls) == at else ():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        return function(*args, **options)

    with Patch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(target, name, signalling)
        yield stopped


def after_steps(patch: Patch, call: Callable[[EMA, int], object]) -> None:
    """Call a function with the averaged weights and the step's number after each optimizer step."""
    update = EMA.update

    def update_and_call(self: EMA, step: int) -> None:
        update(self, step)
        call(self, step)

    patch.setattr(EMA, "update", update_and_call)


def set_loss_to_nan(patch: Patch, first: int, last: int) -> None:
    """Make the loss NaN from its ``first`` to its ``last`` call."""
    cross_entropy, numbers = nn.functional.cross_entropy, count(1)

    def loss(*args: Any, **options: Any) -> Tensor:
        return cross_entropy(*args, **options) * (float("nan") if first <= next(numbers) <= last else 1.0)

    patch.setattr(nn.functional, "cross_entropy", loss)


def short_of_memory(
    most: int, first: int = 1, training: bool = True, error: Exception = GPU_MEMORY
) -> Callable[..., nn.Module]:
    """Thin networks that run out of memory with more than ``most`` images in a forward pass, from pass number ``first`` on, in
    training or else in evaluation."""
    passes = 0

    def check(module: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal passes
        passes += module.training == training
        if module.training == training and passes >= first and len(inputs[0]) > most:
            raise error

    def build(name: str, classes: int, size: int) -> nn.Module:
        network = thin(name, classes, size)
        network.register_forward_pre_hook(check)
        return network

    return build


def script(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS`` in ``folder`` as a user does; commands are those of the checkout."""
    line = [str(PROJECT / word) if str(word).endswith(".py") else str(word) for word in words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def train_all(folder: Path) -> None:
    """Train the three (thin) depths on ``csv/tiny``, and then on ``csv/other``, of three classes. The file ``before`` lists the
    files before the second."""
    make_data(folder / "csv" / "tiny")
    make_data(folder / "csv" / "other", classes=3, seed=1)
    with inside(folder, figures=False):
        command(train, "--model", "all", "--data", "tiny", *FAST)
        (folder / "before").write_text(repr(contents(folder)))
        command(train, "--model", "all", "--data", "csv/other", *FAST)


def contents(folder: Path) -> dict[str, int]:
    """Every file below a folder with the checksum of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("before", ".lock"))
    return {str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) for path in files}


def outputs(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with the checksum of its bytes and the time it was written."""
    return {name: (value, (folder / name).stat().st_mtime_ns) for name, value in contents(folder).items()}


def timeless(path: Path) -> dict[str, Any]:
    """A checkpoint's description without the times in its history, and without the state of the checkout, which may change."""
    values = asdict(read_about(path))
    for name, left_out in (("records", {"git", "source"}), ("history", {*TIMES})):
        values[name] = [{key: row[key] for key in row.keys() - left_out} for row in values[name]]
    return values


def assert_same_run(one: Path, two: Path, model: str = "resnet18") -> None:
    """Two working directories contain the same run: weights, optimizer and all numbers bit for bit, apart from times."""
    for name in ("best", "last"):
        first, second = (folder / "weights" / "tiny" / model / f"{name}.safetensors" for folder in (one, two))
        assert timeless(first) == timeless(second)
        expected, found = read_tensors(first), read_tensors(second)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, found[key]), f"{name}: {key}"
    table = f"report/tiny/history_{model}.csv"
    expected_rows, found_rows = (pd.read_csv(folder / table).drop(columns=TIMES) for folder in (one, two))
    pd.testing.assert_frame_equal(found_rows, expected_rows, check_exact=True)


def slow_probabilities(
    checkpoint: Path, paths: list[Path], network: Any = thin, d4: bool = False, raw: bool = False
) -> np.ndarray:
    """Class probabilities, float32 [N, K], as an oracle: images are read, cropped, resized and normalised one at a time. With
    ``d4`` the mean over the mirror images and quarter turns; at the checkpoint's temperature unless ``raw``."""
    about = read_about(checkpoint)
    model = network(about.model, len(about.classes), about.preprocessing.size)
    model.load_state_dict(part(read_tensors(checkpoint), "model."))
    model.eval().requires_grad_(False)
    rows = []
    for path in paths:
        source = torch.from_numpy(about.preprocessing.crop(read_image(path))[None])
        image = resample(source, about.preprocessing.size, padding=about.preprocessing.padding)
        image = normalise(image, about.preprocessing.mean, about.preprocessing.std)
        views = [image]
        if d4:
            turned = (image, image.rot90(1, (2, 3)), image.rot90(2, (2, 3)), image.rot90(3, (2, 3)))
            views = [*turned, *(view.flip(2) for view in turned)]
        rows.append(sum(model(view).softmax(dim=1)[0].numpy() for view in views) / len(views))
    temperature = 1.0 if raw else about.confidence.get("temperature_d4" if d4 else "temperature", 1.0)
    powers = np.stack(rows).astype(np.float64) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def write_systems(path: Path) -> pd.DataFrame:
    """Write a ``compare.csv`` of three systems, of which one has no counted cost."""
    table = pd.DataFrame(
        {
            "system": ["efficientnet_lite0_tuned", "resnet18", "hog_logreg"],
            "title": ["EfficientNet-Lite0, fine-tuned", "ResNet18", "HOG and <b>logistic</b> regression"],
            "size": [224, 64, 360],
            "accuracy": [0.99, 0.975, 0.8],
            "low": [0.98, 0.96, 0.77],
            "high": [0.995, 0.985, 0.83],
            "f1": [0.985, 0.97, 0.78],
            "auc": [0.9995, 0.999, 0.95],
            "calibration_error": [0.01, 0.02, 0.1],
            "parameters": [3.4e6, 11.2e6, 88202],
            "training_flop": [8e13, 2e14, np.nan],
            "images_per_second": [120.0, 300.0, np.nan],
            "p_resnet18": [0.04, np.nan, 1e-9],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return table


def about(model: str = "resnet18", classes: list[str] | None = None, **values: Any) -> About:
    """The description of a checkpoint."""
    return About(model, classes or ["normal", "leukemia blast"], Preprocessing(32, 64, 32, "cell"), **values)


class Bomb:
    """An object whose unpickling creates the file ``target``."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def save_thin(path: Path, about: About, network: nn.Module) -> None:
    """Save a network as a best checkpoint."""
    save_checkpoint(path, about, {f"model.{name}": tensor for name, tensor in network.state_dict().items()})


def assert_finite(*paths: Path) -> None:
    """The tensors of these checkpoints are finite."""
    tensors = [tensor for path in paths for tensor in read_tensors(path).values()]
    assert tensors and all(bool(tensor.isfinite().all()) for tensor in tensors)


def settings(**values: Any) -> Settings:
    """The settings of a small SGD run, with the defaults of ``train.py``."""
    usual: dict[str, Any] = {
        **{"model": "resnet18", "size": 64, "window": 352, "progressive": False, "epochs": 3, "batch_size": 8},
        **{"augmentation": "geometry,colour"},
        **{"accumulate": 1, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "warmup": 1.0, "smoothing": 0.1},
        **{"ema": 0.99, "clip": 5.0, "class_weights": "none", "patience": 0, "zero_init": True, "seed": 0},
    }
    return Settings(**(usual | values))


@dataclass
class Noise:
    """Batches of zeros that record the requested sizes."""

    batch_size: int = 4
    count: int = 12
    asked: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 3

    def epoch(self, number: int = 0, size: int = 64) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        self.asked += (size,)
        for _ in range(3):
            images = torch.zeros(4, 3, size, size).contiguous(memory_format=torch.channels_last)
            yield images, torch.tensor([0, 1, 0, 1]), np.arange(4)
