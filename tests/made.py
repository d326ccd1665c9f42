"""What the tests of the commands share: made cells on black, thin networks, and the commands run as a user runs them."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from lab.training import snapshots
from lab.training.recipe import Settings
from models import catalog
from resnet import BasicBlock

PATIENCE = 300  # seconds after which a test takes a run to hang
PROJECT = Path(__file__).resolve().parents[1]
TIMES = ["seconds", "images_per_second"]  # the only numbers of a history that a second run may change
DEPTHS = ["resnet18", "resnet50", "resnet152"]
TRAIN, VALID, TEST = 24, 12, 10  # images of the made lists
FAST = ["--size", "32", "--epochs", "3", "--batch-size", "8", "--lr", "0.1", "--ema", "0.5"]
FAST += ["--precision", "fp32", "--device", "cpu"]
LONG = ["--data", "csv/tiny", *FAST, "--epochs", "8", "--batch-size", "4"]  # 48 steps
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
LAST = Path("weights", "tiny", "resnet18", "last.safetensors")


class Thin(nn.Module):
    """A network with a ResNet's kinds of parts (convolution, norm, block, mean, classifier) that trains in milliseconds."""

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
    """Stands in for ``catalog.build``; each depth has a width of its own, so that no two depths' weights fit each other."""
    return Thin(classes, {"resnet18": 4, "resnet34": 5, "resnet50": 6, "resnet101": 7, "resnet152": 8}[name])


def cell(rng: np.random.Generator, label: int) -> np.ndarray:
    """A disc on black, uint8 [48, 48, 3]; of a higher label larger and of another colour, with some noise."""
    y, x = np.mgrid[:48, :48]
    radius = 8 + 4 * label + rng.uniform(-3, 3)
    disc = np.hypot(y - 23.5 - rng.uniform(-2, 2), x - 23.5 - rng.uniform(-2, 2)) < radius
    colour = np.array([90 + 30 * label, 60, 140 - 20 * label]) + rng.normal(0, 20, (48, 48, 3))
    return (disc[..., None] * colour.clip(20, 255)).astype(np.uint8)


def make_data(folder: Path, classes: int = 2, seed: int = 0) -> Path:
    """Write a data set in the lab's form: cells, ``train.csv``, ``valid.csv``, and the same test list in three orders."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    if classes == 2:
        (folder / "classes.csv").write_text("label,name\n0,normal\n1,leukemia blast\n")
    for name, count in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (folder / name).mkdir()
        labels = np.arange(count) % classes
        ids = [f"./{name}/{index}.png" for index in range(count)]
        for index, label in enumerate(labels):
            Image.fromarray(cell(rng, int(label))).save(folder / name / f"{index}.png")
        if name != "test":
            pd.DataFrame({"Path": ids, "label": labels}).to_csv(folder / f"{name}.csv", index=False)
            continue
        for depth in (18, 50, 152):
            shuffled = [ids[i] for i in rng.permutation(count)]
            # The lab's test lists have no final newline.
            (folder / f"resnet_{depth}_test.csv").write_text("\n".join(["Path", *shuffled]))
    return folder


@contextmanager
def inside(folder: Path, network: Any = thin, figures: bool = True) -> Iterator[pytest.MonkeyPatch]:
    """Work in ``folder`` with ``network`` in place of the deep ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(catalog, "build", network)
        if not figures:
            patch.setattr(train, "draw_data_figures", lambda *_: None)
            patch.setattr(train, "redraw_accuracy", lambda *_, **__: None)
        yield patch


def command(module: ModuleType, *options: str | Path) -> int | None:
    """Run a command's ``main`` in this process with these options; what it returns."""
    status: int | None = module.main(module.arguments().parse_args([*map(str, options)]))
    return status


class Trainer:
    """Trains in child processes that can be killed; see thin_train.py. ``before`` are words of a command that starts it."""

    def __init__(self, *before: str, **environment: str) -> None:
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"} | environment
        variables["PYTHONPATH"] = str(PROJECT)
        script = [*before, sys.executable, str(PROJECT / "tests" / "thin_train.py")]
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(script, env=variables, stdin=pipe, stdout=pipe, text=True)
        assert self.server.stdout and self.server.stdout.readline() == "ready\n"

    def start(self, folder: Path, *options: str, command: str = "", ranks: int = 1, **environment: str) -> int:
        """Start a training by one process, or several together, or another command; the first process (``children``: all)."""
        variables = [environment]
        if ranks > 1:
            with socket.socket() as free:  # over loopback by number: the machine's own name need not resolve
                free.bind(("127.0.0.1", 0))
                address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), **LOOPBACK}
            several = {"WORLD_SIZE": str(ranks), **address, **environment}
            variables = [several | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([str(folder), command, options, variables]) + "\n")
        self.server.stdin.flush()
        self.children = [*map(int, self.server.stdout.readline().split())]
        return self.children[0]

    def run(self, folder: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Start it and wait for its end."""
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

    def until_held(self, folder: Path, process: int) -> None:
        """Wait until a run waits for the file ``hold`` of its folder to go, or has ended."""
        limit = time.monotonic() + PATIENCE
        while not (folder / "held").exists() and Path(f"/proc/{process}").exists():
            assert time.monotonic() < limit, "the run neither ends nor reaches the step"
            time.sleep(0.002)

    def status(self) -> int:
        """Wait for it to end; minus the signal where one ended it."""
        assert self.server.stdout
        ready, _, _ = select.select([self.server.stdout], [], [], PATIENCE)
        assert ready, "the run does not end"
        return int(self.server.stdout.readline())

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(10)


def interrupt(patch: pytest.MonkeyPatch, at: int, written: bool) -> None:
    """Stop a run as Ctrl-C would, at its ``at``-th last checkpoint: just after it is written, or just before."""
    count = 0

    def interrupted(path: Path, about: About, tensors: dict[str, Tensor], state: TrainingState) -> None:
        nonlocal count
        count += state.epoch > 0  # the first is written before any step
        stop = count == at and state.epoch > 0
        if not stop or written:
            save_checkpoint(path, about, tensors, state)
        if stop:
            raise KeyboardInterrupt

    patch.setattr(snapshots, "save_checkpoint", interrupted)


def script(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS`` of the checkout as a user does, in ``folder``; a word that names a command is found there."""
    line = [str(PROJECT / word) if str(word).endswith(".py") else str(word) for word in words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def train_all(folder: Path) -> None:
    """Train the three (thin) depths on ``csv/tiny``, and then on ``csv/other``, of three classes.

    The file ``before`` lists the files that stood before ``other``.
    """
    make_data(folder / "csv" / "tiny")
    make_data(folder / "csv" / "other", classes=3, seed=1)
    with inside(folder, figures=False):
        command(train, "--model", "all", "--data", "tiny", *FAST)
        (folder / "before").write_text(repr(contents(folder)))
        command(train, "--model", "all", "--data", "csv/other", *FAST)


def contents(folder: Path) -> dict[str, int]:
    """Every file below a folder with the check sum of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("before", ".lock"))
    return {str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) for path in files}


def outputs(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with the check sum of its bytes and the time it was written."""
    times = {name: (folder / name).stat().st_mtime_ns for name in contents(folder)}
    return {name: (value, times[name]) for name, value in contents(folder).items()}


def timeless(path: Path) -> dict[str, Any]:
    """What a checkpoint says, without the times in its history, and without the state of a checkout that may be worked on."""
    said = asdict(read_about(path))
    said["records"] = [{key: record[key] for key in record.keys() - {"git", "source"}} for record in said["records"]]
    said["history"] = [{key: value for key, value in row.items() if key not in TIMES} for row in said["history"]]
    return said


def assert_same_run(one: Path, two: Path, model: str = "resnet18") -> None:
    """Two working directories hold the same run: weights, optimizer and all numbers bit for bit, apart from times."""
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


def slow_probabilities(checkpoint: Path, paths: list[Path], network: Any = thin, d4: bool = False) -> np.ndarray:
    """The obvious way to predict, as an oracle: one image at a time, read, cropped, scaled, normalised; float32 [N, K].

    With ``d4`` the mean over the mirror images and quarter turns.
    """
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
    return np.stack(rows)


def about(model: str = "resnet18", classes: list[str] | None = None, **values: Any) -> About:
    """What a made checkpoint says of itself."""
    return About(model, classes or ["normal", "leukemia blast"], Preprocessing(32, 64, 32, "cell"), **values)


def save_thin(path: Path, said: About, network: nn.Module) -> None:
    """Save a network as a best checkpoint is saved."""
    save_checkpoint(path, said, {f"model.{name}": tensor for name, tensor in network.state_dict().items()})


def settings(**values: Any) -> Settings:
    """A run's settings, with the defaults of ``train.py`` for a small SGD run."""
    usual: dict[str, Any] = {
        **{"model": "resnet18", "size": 64, "window": 352, "progressive": False, "epochs": 3, "batch_size": 8},
        **{"augmentation": "geometry,colour"},
        **{"accumulate": 1, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "warmup": 1.0, "smoothing": 0.1},
        **{"ema": 0.99, "clip": 5.0, "class_weights": "none", "patience": 0, "zero_init": True, "seed": 0},
    }
    return Settings(**(usual | values))


@dataclass
class Noise:
    """Batches of noise that note the sizes asked of them."""

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
