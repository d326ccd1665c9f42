"""What only a GPU can show: the same commands on CUDA. Skipped where torch sees no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from lab.checkpoints.checkpoint import load_network, read_about, read_state, read_tensors
from lab.data.batches import Batches
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store
from lab.evaluation.inference import predict
from lab.hardware import Hardware
from models import catalog
from tests import made
from tests.made import BEST, HISTORY, LAST, LOOPBACK, PATIENCE, PROJECT, Capture, Patch

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA can use")
OPTIONS = ["--size", "32", "--epochs", "3", "--batch-size", "8", "--lr", "0.1", "--ema", "0.5", "--device", DEVICE]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Memory and settings of the process as before each test."""
    yield
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.fixture
def run(trained: Path, work: Patch) -> made.Run:
    """Trains a thin resnet18 on the GPU, in an empty working directory."""
    return lambda *options: made.command(train, "--data", trained / "csv" / "tiny", *OPTIONS, *options)


def copied(tmp_path: Path, name: str) -> list[str]:
    """Options for weights and report in a folder of their own, in which :func:`made.assert_same_run` finds them."""
    return ["--weights", str(tmp_path / name / "weights"), "--report", str(tmp_path / name / "report")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_deterministic_run_is_resumed_and_repeated_with_the_same_weights(
    precision: str, tmp_path: Path, run: made.Run
) -> None:
    """Interrupted after an epoch; fp16 with its loss scaler."""
    options = ["--deterministic", "--precision", precision]
    run(*options, *copied(tmp_path, "whole"))
    with made.interrupted():
        run(*options, *copied(tmp_path, "resumed"))
    run(*options, *copied(tmp_path, "resumed"))
    run("--like", str(tmp_path / "whole" / "weights" / "tiny" / "resnet18"), *copied(tmp_path, "repeated"))
    for name in ("resumed", "repeated"):
        made.assert_same_run(tmp_path / "whole", tmp_path / name)
    made.assert_finite(tmp_path / "whole" / BEST, tmp_path / "whole" / LAST)
    record = read_about(tmp_path / "whole" / LAST).records[0]
    assert record["precision"] == precision and record["device"].startswith(DEVICE)
    assert (read_state(tmp_path / "whole" / LAST).scaler != {}) == (precision == "fp16")


def test_an_epoch_from_a_streamed_store_is_that_of_a_store_on_the_gpu(
    tmp_path: Path, run: made.Run, work: Patch
) -> None:
    """A list that does not fit is copied batch by batch while the GPU computes."""
    for name, fits in (("kept", True), ("streamed", False)):
        work.setattr("lab.data.batches.fits_on", lambda *_, answer=fits: answer)
        run("--deterministic", *copied(tmp_path, name))
    made.assert_same_run(tmp_path / "kept", tmp_path / "streamed")


def test_a_large_store_is_streamed_without_a_wrong_image() -> None:
    """Many batches in flight: each image arrives beside its own label."""
    labels = np.arange(5000) % 251
    images = np.broadcast_to(labels[:, None, None, None], (5000, 64, 64, 3)).astype(np.uint8)
    preprocessing = Preprocessing(64, 64, 32, "cell", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.data.batches.fits_on", lambda *_: False)
        batches = Batches(Store(images, np.arange(5000), []), labels, preprocessing, 64, torch.device(DEVICE))
        for views, found, _ in batches:
            torch.testing.assert_close(views.mean(dim=(1, 2, 3)), found.float(), rtol=0, atol=0.5)


def test_a_batch_that_does_not_fit_is_split(tmp_path: Path, run: made.Run, work: Patch, capsys: Capture) -> None:
    """By an allocator that has little memory left, not by a made error. Images are streamed, so that the step alone needs it."""
    work.setattr("lab.data.batches.fits_on", lambda *_: False)
    total, used = torch.cuda.get_device_properties(0).total_memory, torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 160 * 2**20) / total)
    run("--size", "448", "--batch-size", "24", "--epochs", "1", "--warmup", "0", "--precision", "fp32")
    assert "batch: does not fit into the memory of cuda; split into" in capsys.readouterr().out
    assert read_about(tmp_path / LAST).finished and (read_state(tmp_path / LAST).at_once or 24) < 24


def test_compiling_is_decided_by_measured_steps_and_gives_a_whole_run(
    tmp_path: Path, run: made.Run, work: Patch, capsys: Capture
) -> None:
    """Asked for, and measured in a run that is said to be long enough."""
    run("--compile", *copied(tmp_path, "asked"))
    assert "compile: on, as asked" in capsys.readouterr().out
    work.setattr("lab.training.compile.WORTH_TRYING", 0.0)
    run(*copied(tmp_path, "measured"))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("compile: "))
    assert "measured: " in line or "it is no faster" in line
    for name in ("asked", "measured"):
        made.assert_finite(tmp_path / name / LAST)
        assert len((tmp_path / name / HISTORY).read_text().splitlines()) == 4


def test_torchrun_with_one_process_trains_as_without(tmp_path: Path, trained: Path, run: made.Run) -> None:
    """NCCL is set up, and the process takes the GPU of its local rank."""
    options = ["--data", str(trained / "csv" / "tiny"), *OPTIONS, "--precision", "fp32", "--deterministic"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    line = [*launcher, str(PROJECT / "tests" / "thin_train.py"), *options, *copied(tmp_path, "one")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), **LOOPBACK}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    run("--precision", "fp32", "--deterministic", *copied(tmp_path, "alone"))
    one, alone = (read_tensors(tmp_path / name / LAST) for name in ("one", "alone"))
    assert all(torch.equal(one[name], alone[name]) for name in alone) and one.keys() == alone.keys()


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_the_gpu_predicts_what_the_cpu_predicts(model: str) -> None:
    """In float32 without TF32, to the fourth digit; the labels in bf16."""
    torch.manual_seed(0)
    network, images = catalog.build(model, 8, 64).eval(), torch.randn(64, 3, 64, 64)
    found = {}
    for device, precision in (("cpu", "fp32"), (DEVICE, "fp32"), (DEVICE, "bf16")):
        hardware = Hardware(torch.device(device), precision)
        batch = images.to(device), torch.zeros(64, device=device), np.arange(64)
        found[device, precision] = predict(hardware.place(network), [batch], hardware)
    np.testing.assert_allclose(found[DEVICE, "fp32"], found["cpu", "fp32"], atol=1e-4)
    np.testing.assert_allclose(found[DEVICE, "bf16"], found["cpu", "fp32"], atol=0.05)


def test_weights_of_a_gpu_run_predict_on_the_cpu(tmp_path: Path, run: made.Run) -> None:
    """The examiner's machine may have no GPU."""
    run()
    network, about = load_network(tmp_path / BEST, "resnet18")
    assert not about.algorithms and next(network.parameters()).device.type == "cpu"
    batch = torch.zeros(2, 3, 32, 32), torch.zeros(2), np.arange(2)
    probabilities = predict(network, [batch], Hardware(torch.device("cpu"), "fp32"))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
