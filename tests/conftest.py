"""Fixtures of the tests: the real data beside the checkout, generated data sets, trained networks, working directories."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run in parallel, one per core, so that more threads would only wait for each other. Set before torch is imported.
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
from PIL import Image

pytest.register_assert_rewrite("tests.made", "tests.made_page")  # so that their assertions print the compared values

import train
from lab.data import lists
from models import catalog
from tests import hostile, hostile_images, made

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"

# The same examples on every run, and no deadline, because the machine may be busy.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
# make fuzz: eighteen times as many, and others on every run. A profile on the command line overrides the line above.
hypothesis.settings.register_profile("fuzz", max_examples=1800, deadline=None)

CASES: Counter[str] = Counter()  # generated cases of hostile input, by the process that ran them


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count the cases; make fuzz fails with fewer than 10,000."""
    CASES["here"] = hostile.CASES.total()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cases"] = CASES["here"]
    if session.config.getoption("--hypothesis-profile", None) == "fuzz" and CASES.total() < 10_000:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the count of a parallel process."""
    CASES[node.gateway.id] = getattr(node, "workeroutput", {}).get("cases", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of generated cases, if any."""
    if CASES.total():
        terminalreporter.write_line(f"{CASES.total():,} generated cases of hostile input")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Returns a folder of the real sample data, ``../shared/data/<name>``; skips the test if it is missing."""

    def find(name: str) -> Path:
        if not (REAL / name).is_dir():
            pytest.skip(f"needs the real images in ../shared/data/{name}, which are not beside this checkout")
        return REAL / name

    return find


@pytest.fixture(autouse=True, scope="session")
def _problems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Refused lists write their problems into a temporary folder, not into the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "PROBLEMS", tmp_path_factory.mktemp("problems") / "problems.txt")
        yield


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, in which a test may write ``.store``."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set with the lab's five lists and generated cells in folders ``train``, ``valid`` and ``test``."""

    def make(name: str = "tiny", train: int = 8, valid: int = 4, test: int = 3) -> Path:
        return made.make_data(tmp_path / name, counts=(train, valid, test), kind="bmp")

    return make


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hostile.Tree]:
    """A folder of lists with images, links and an image outside, for generated lists. The working directory is beside it."""
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
        patch.setattr(os, "fsync", lambda _: None)  # it would take most of the time
        yield tree


@pytest.fixture(scope="session")
def trainer() -> Iterator[made.Trainer]:
    """Trains in child processes, with a snapshot after every step."""
    child = made.Trainer(SNAPSHOT="0")
    yield child
    child.close()


@pytest.fixture(scope="session")
def uninterrupted(trainer: made.Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run: its folder, and the seconds that it took."""
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
    """A read-only folder with a trained run of each depth on two data sets.

    Parallel test processes share it: the first one creates it, the others wait.
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
    """An empty working directory with thin networks and without figures, which are slow."""
    with made.inside(tmp_path, figures=False) as patch:
        yield patch


@pytest.fixture
def run(trained: Path, work: pytest.MonkeyPatch) -> made.Run:
    """Trains resnet18 on the tiny lists with more options, in an empty working directory."""
    return lambda *options: made.command(train, "--data", trained / "csv" / "tiny", *made.FAST, *options)
