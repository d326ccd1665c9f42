"""What the tests of the data path share: the real data beside the checkout, small made data sets, a folder to work in."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side, one per core: threads of theirs would wait for each other. To be set before torch is imported.
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import numpy as np
import pytest
from PIL import Image

pytest.register_assert_rewrite("tests.made", "tests.made_page")  # so that its assertions say what they compared

import train
from models import catalog
from tests import hostile, hostile_images, made

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"

# The same examples on every run, and no verdict that depends on how busy the machine is.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
# Eighteen times as many, and others on every run: make fuzz. A profile named on the command line wins over the line above.
hypothesis.settings.register_profile("fuzz", max_examples=1800, deadline=None)


CASES: Counter[str] = Counter()  # generated cases of hostile input, by the process that ran them


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count the cases; make fuzz promises 10,000, and fewer are a failure."""
    CASES["here"] = hostile.CASES.total()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cases"] = CASES["here"]
    if session.config.getoption("--hypothesis-profile", None) == "fuzz" and CASES.total() < 10_000:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the count of a process that ran tests beside others."""
    CASES[node.gateway.id] = getattr(node, "workeroutput", {}).get("cases", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases were generated, where some were."""
    if CASES.total():
        terminalreporter.write_line(f"{CASES.total():,} generated cases of hostile input")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Finds a folder of the real sample data, ``../shared/data/<name>``; skips the test where it is missing."""

    def find(name: str) -> Path:
        if not (REAL / name).is_dir():
            pytest.skip(f"needs the real images in ../shared/data/{name}, which are not beside this checkout")
        return REAL / name

    return find


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, for what writes ``.store`` into the working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def draw_cell(seed: int, label: int, side: int) -> np.ndarray:
    """A textured disc on black, RGB uint8 [side, side, 3]; wider and bluer for label 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    disc = np.hypot(x - rng.uniform(-2, 2), y - rng.uniform(-2, 2)) < side * (0.22 + 0.1 * label)
    texture = rng.integers(-20, 21, (side, side, 3)) + np.array([110, 50, 120 + 60 * label])
    return (disc[..., None] * texture).astype(np.uint8)


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set: folders ``train``, ``valid`` and ``test`` of made cells, and the lab's five lists."""

    def make(name: str = "tiny", train: int = 8, valid: int = 4, test: int = 3, side: int = 48) -> Path:
        folder = tmp_path / name
        for start, (part, count) in enumerate({"train": train, "valid": valid, "test": test}.items()):
            (folder / part).mkdir(parents=True)
            for index in range(count):
                image = draw_cell(1000 * start + index, index % 2, side)
                Image.fromarray(image).save(folder / part / f"{index}.bmp")
        for part, count in (("train", train), ("valid", valid)):
            rows = "".join(f"./{part}/{index}.bmp,{index % 2}\n" for index in range(count))
            (folder / f"{part}.csv").write_text("Path,label\n" + rows)
        for depth in (18, 50, 152):
            order = np.random.default_rng(depth).permutation(test)
            # Like the lab's own test lists: no newline at the end.
            (folder / f"resnet_{depth}_test.csv").write_text("\n".join(["Path", *(f"./test/{i}.bmp" for i in order)]))
        return folder

    return make


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hostile.Tree]:
    """Lists with images, links and an image outside, for generated lists; the working directory lies beside them."""
    tree = hostile.Tree(tmp_path_factory.mktemp("tree"))
    for name in ("lists/img", "here/img", "outside"):
        (tree.top / name).mkdir(parents=True)
    cell = hostile_images.encode(Image.new("RGB", (6, 5), (9, 99, 9)), "PNG")
    files = [f"lists/img/{name}" for name in (*(f"{i}.png" for i in range(6)), "a, b.png", 'q"t.png', "ü €.png", "NA")]
    for name in (*files, "here/img/6.png", "outside/0.png"):
        (tree.top / name).write_bytes(cell)
    links = {"link.png": "0.png", "far.png": "../../outside/0.png", "hollow.png": "none.png", "loop.png": "loop.png"}
    for name, target in (links | {"out": "../../outside"}).items():
        (tree.lists / "img" / name).symlink_to(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree.top / "here")
        patch.setattr(os, "fsync", lambda _: None)  # no power is lost here, and it would take most of the time
        yield tree


@pytest.fixture(scope="session")
def trainer() -> Iterator[made.Trainer]:
    """Trains in processes of its own, with a snapshot after every step."""
    child = made.Trainer(SNAPSHOT="0")
    yield child
    child.close()


@pytest.fixture(scope="session")
def uninterrupted(trainer: made.Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing stopped: its folder, and the seconds it took."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    made.make_data(folder / "csv" / "tiny")
    began = time.monotonic()
    done = trainer.run(folder, *made.LONG)
    assert done.returncode == 0, done.stderr
    return folder, time.monotonic() - began


@pytest.fixture(scope="module")
def thin_networks() -> Iterator[None]:
    """The catalogue builds thin networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "build", made.thin)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run of each depth, on two data sets; nobody writes into it.

    Processes that run tests side by side share it: the first one makes it, the others wait.
    """
    top = tmp_path_factory.getbasetemp()
    folder = (top.parent if "PYTEST_XDIST_WORKER" in os.environ else top) / "trained"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made.train_all(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return folder


@pytest.fixture
def work(tmp_path: Path, trained: Path) -> Iterator[pytest.MonkeyPatch]:
    """An empty working directory with thin networks and no figures, which are the slow part."""
    with made.inside(tmp_path, figures=False) as patch:
        yield patch


@pytest.fixture
def run(trained: Path) -> Callable[..., object]:
    """Train resnet18 on the tiny lists with more options."""
    return lambda *more: made.command(train, "--data", trained / "csv" / "tiny", *made.FAST, *more)
