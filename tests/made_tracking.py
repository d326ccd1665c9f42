"""What the tests of TensorBoard and MLflow share: runs that are followed, and what is shown of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import train
from lab.tracking import scalar_name
from tests.made import PATIENCE

INSTALLED = bool(find_spec("mlflow") and find_spec("tensorboard"))
extras = pytest.mark.skipif(not INSTALLED, reason="needs mlflow and tensorboard (requirements-extras.txt)")
COLUMNS = ["train_accuracy", "valid_accuracy", "train_loss", "valid_loss", "learning_rate", "size"]
COLUMNS += ["seconds", "images_per_second"]


@contextmanager
def at_epoch(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something in an epoch's end, once its history is written and before anybody is told."""
    write = train.write_history

    def written(path: Path, history: list[dict[str, float]]) -> None:
        write(path, history)
        if len(history) == number:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_history", written)
        yield


def until(fulfilled: Callable[[], Any]) -> None:
    """Wait for another process."""
    limit = time.monotonic() + PATIENCE
    while not fulfilled():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.05)


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Every curve that TensorBoard shows of a run; a step that is there twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return shown(EventAccumulator(str(folder)))


def shown(events: Any) -> dict[str, dict[int, float]]:
    events.Reload()
    found = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for points in found.values()), found
    return {name: dict(points) for name, points in found.items()}


def assert_shows_history(folder: Path, model: str = "resnet18") -> None:
    """TensorBoard shows every column of the history, epoch by epoch."""
    history = pd.read_csv(folder / "report" / "tiny" / f"history_{model}.csv").set_index("epoch")
    found = curves(folder / "report" / "tiny" / "tensorboard" / model)
    assert list(history) == COLUMNS and found.keys() == set(map(scalar_name, COLUMNS))
    for name in COLUMNS:
        assert found[scalar_name(name)] == pytest.approx(dict(history[name]), rel=1e-5), name
