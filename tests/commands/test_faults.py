"""Faults while running: a full or read-only disk, images that vanish, memory that ends (docs/reliability.md)."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import predict
import train
from lab.checkpoints.checkpoint import read_about, read_state, read_tensors
from lab.data.lists import read_data_set, read_lists
from lab.data.preprocessing import Preprocessing
from lab.data.store import open_stores
from lab.errors import UserError, run
from lab.training.ema import EMA
from tests.made import FAST, LAST, LONG, Trainer, assert_same_run, command, inside, make_data, thin


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses to let any file grow above ``size`` bytes, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_whole(folder: Path) -> None:
    """Every checkpoint below a folder can be read to the end, and nothing half written lies about."""
    for path in folder.rglob("*.safetensors"):
        assert read_about(path) and read_tensors(path)
    assert not list(folder.rglob("*.tmp*"))


# ---- no room


@pytest.mark.parametrize("size", [1_000, 100_000, 300_000])
def test_no_room_is_one_sentence_and_the_run_goes_on_once_there_is(
    tmp_path: Path, trained: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limits stop the run at the image store, at a checkpoint, and nowhere."""
    store, checkpoint = 24 * 64 * 64 * 3, (trained / LAST).stat().st_size
    with inside(tmp_path, figures=False):
        with no_file_above(size), pytest.raises(SystemExit) as ended:
            run(command, train, "--data", trained / "csv" / "tiny", *FAST)
        assert ended.value.code == (2 if size < max(store, checkpoint) else 0)
        if ended.value.code:
            said = capsys.readouterr().err.splitlines()[-1]
            where = ".store" if size < store else "last.safetensors"
            assert said.startswith("error: ") and where in said and os.strerror(errno.EFBIG) in said
            assert said.endswith("make room or give access, then run the command again.")
        assert_whole(tmp_path)
        command(train, "--data", trained / "csv" / "tiny", *FAST)
    assert_same_run(trained, tmp_path)


@pytest.mark.parametrize("call", [1, 4, 8])
def test_a_disk_that_turns_read_only_at_any_write(
    tmp_path: Path, trained: Path, call: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As above on a disk of its own, but by a stand-in, where the system lets nobody mount one."""
    replace, calls = Path.replace, 0

    def refused(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path), None, str(target))
        return replace(path, target)

    with inside(tmp_path, figures=False):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(Path, "replace", refused)
            run(command, train, "--data", trained / "csv" / "tiny", *FAST)
        assert ended.value.code == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert os.strerror(errno.EROFS) in said and said.endswith(
            "make room or give access, then run the command again."
        )
        assert_whole(tmp_path)
        command(train, "--data", trained / "csv" / "tiny", *FAST)
    assert_same_run(trained, tmp_path)


def test_a_submission_without_room_leaves_the_old_one(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    submission = tmp_path / "csv" / "tiny" / "submission_resnet18.csv"
    submission.write_text("the old one")
    with inside(tmp_path):
        options = ("--data", "tiny", "--model", "resnet18", "--device", "cpu", "--precision", "fp32")
        with no_file_above(20), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            command(predict, *options)
        assert submission.read_text() == "the old one"
        command(predict, *options)
    assert submission.read_text().startswith("ID,label")


class SmallDisk:
    """A file system of its own on ``place``, which only the processes of ``trainer`` see; the test looks in from outside."""

    def __init__(self, place: Path, kibibytes: int) -> None:
        place.mkdir()
        mount = f"mount -t tmpfs -o size={kibibytes}k tmpfs '{place}' && exec \"$@\""
        self.place = place
        self.trainer = Trainer("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", SNAPSHOT="0")
        self.inside = Path(f"/proc/{self.trainer.server.pid}/root{place}")

    def fill(self) -> None:
        """Take all that is left."""
        with (self.inside / "ballast").open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def protect(self, folder: str) -> None:
        """Make a folder read-only, which holds the run's lock open for writing: by a second, read-only mount over it."""
        self.mount(f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}")

    def mount(self, line: str) -> None:
        """Run a shell's line where the disk is."""
        server = str(self.trainer.server.pid)
        enter = ["nsenter", "--target", server, "--user", "--mount", "--preserve-credentials"]
        subprocess.run([*enter, "sh", "-c", f"cd '{self.place}' && {line}"], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """A disk of one MiB, for all tests."""
    top = tmp_path_factory.mktemp("mounted")
    line = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(top)]
    there = shutil.which("unshare") and shutil.which("nsenter")
    if not there or subprocess.run(line, capture_output=True).returncode:
        pytest.skip("needs a system that lets users mount a file system of their own (unshare --map-root-user --mount)")
    made = SmallDisk(top / "disk", 1024)
    yield made
    made.trainer.close()


@pytest.fixture
def small_disk(disk: SmallDisk) -> SmallDisk:
    """That disk, emptied."""
    for path in disk.inside.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return disk


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_fills_up_or_turns_read_only_while_training(
    small_disk: SmallDisk, uninterrupted: tuple[Path, float], tmp_path: Path, fault: str
) -> None:
    """The run ends with a sentence, its checkpoints are whole, and once the disk is mended it ends as if nothing had been."""
    trainer, words = small_disk.trainer, [*LONG, "--weights", str(small_disk.place / "weights")]
    make_data(tmp_path / "csv" / "tiny")
    (tmp_path / "hold").write_text("20")
    trainer.until_held(tmp_path, trainer.start(tmp_path, *words))
    if fault == "full":
        small_disk.fill()
    else:
        small_disk.protect("weights/tiny/resnet18")
    (tmp_path / "hold").unlink()
    assert trainer.status() == 2
    said = (tmp_path / "stderr").read_text()
    reason = os.strerror(errno.ENOSPC if fault == "full" else errno.EROFS)
    assert f"last.safetensors: {reason}; make room or give access" in said and "Traceback" not in said
    assert_whole(small_disk.inside)
    assert read_state(small_disk.inside / LAST).epoch == 3
    if fault == "full":
        (small_disk.inside / "ballast").unlink()
    else:
        small_disk.mount("umount weights/tiny/resnet18")
    trainer.start(tmp_path, *words)
    assert trainer.status() == 0
    shutil.copytree(small_disk.inside / "weights", tmp_path / "weights")
    assert_same_run(uninterrupted[0], tmp_path)


def test_a_full_disk_is_noticed_before_the_store_is_mapped(small_disk: SmallDisk, tmp_path: Path) -> None:
    """Writing to a map of a file without room would end the process with SIGBUS."""
    make_data(tmp_path / "csv" / "tiny")
    link = tmp_path / ".store"
    link.symlink_to(small_disk.place, target_is_directory=True)
    small_disk.fill()
    small_disk.trainer.start(tmp_path, *LONG)
    assert small_disk.trainer.status() == 2
    said = (tmp_path / "stderr").read_text()
    assert f".npy: {os.strerror(errno.ENOSPC)}; make room" in said and "Traceback" not in said


# ---- images that vanish


@pytest.mark.parametrize("fault", ["deleted", "truncated"])
def test_images_lost_after_the_check_are_named_by_row(tmp_path: Path, fault: str) -> None:
    data = read_data_set(make_data(tmp_path / "csv" / "tiny"))
    lists = read_lists(data, ("train", "valid"))
    for number in (3, 7):
        lose(data.folder / "train" / f"{number}.png", fault)
    with pytest.raises(UserError, match=r"2 images cannot be used") as error:
        open_stores(lists, Preprocessing(48, 64, 32, "cell"), tmp_path / ".store")
    assert "train.csv line 5: ./train/3.png" in str(error.value) and "train.csv line 9: ./train/7.png" in str(
        error.value
    )
    assert not list((tmp_path / ".store").glob("train*"))


def lose(path: Path, fault: str) -> None:
    """Delete an image, or cut it off."""
    if fault == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])


def test_images_lost_while_training_change_nothing_until_the_next_start(tmp_path: Path, trained: Path) -> None:
    """They have been decoded; a start looks at them again, and says which are missing."""
    data = make_data(tmp_path / "csv" / "tiny")
    with inside(tmp_path, figures=False), pytest.MonkeyPatch.context() as patch:
        update = EMA.update

        def losing(self: EMA, step: int) -> None:
            update(self, step)
            if step == 4:
                for number, path in enumerate(sorted(data.rglob("*.png"))):
                    lose(path, ("deleted", "truncated")[number % 2])

        patch.setattr(EMA, "update", losing)
        command(train, "--data", "tiny", *FAST)
        assert_same_run(trained, tmp_path)
        with pytest.raises(UserError, match=r"train.csv line \d+: .* does not exist"):
            command(train, "--data", "tiny", *FAST, "--fresh")
        assert_same_run(trained, tmp_path)


def test_there_is_no_worker_process_that_could_be_killed(trainer: Trainer, tmp_path: Path) -> None:
    """Images are decoded by threads, and batches made by the training process itself."""
    make_data(tmp_path / "csv" / "tiny")
    (tmp_path / "hold").write_text("20")
    child = trainer.start(tmp_path, *LONG)
    trainer.until_held(tmp_path, child)
    children = [path.read_text() for path in Path(f"/proc/{child}/task").glob("*/children")]
    (tmp_path / "hold").unlink()
    assert trainer.status() == 0
    if not children:
        pytest.skip("needs a system that lists a process's children in /proc")
    assert not any(children)


# ---- memory that ends


FIRST = 2 + 2 * 3 + 1  # the pass that begins the third epoch: two are made to measure, three in each epoch


GPU = torch.OutOfMemoryError("CUDA out of memory.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)


def short_of_memory(most: int, first: int, training: bool, error: RuntimeError = GPU) -> Callable[..., torch.nn.Module]:
    """Thin networks for which a device holds no more than ``most`` images, from pass number ``first`` on, while training or
    while validating."""
    passes = 0

    def build(name: str, classes: int, size: int) -> torch.nn.Module:
        def check(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
            nonlocal passes
            passes += module.training == training
            if module.training == training and passes >= first and len(given[0]) > most:
                raise error

        network = thin(name, classes, size)
        network.register_forward_pre_hook(check)
        return network

    return build


@pytest.mark.parametrize("error", [GPU, CPU], ids=["gpu", "cpu"])
def test_memory_that_ends_while_training_halves_what_is_held(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], error: RuntimeError
) -> None:
    """As when another program takes a part of the GPU: the run goes back to its last checkpoint, with a half and then, as the
    step that is measured first shows, a quarter of the images, and on."""
    with inside(tmp_path, short_of_memory(2, FIRST, training=True, error=error), figures=False):
        command(train, "--data", trained / "csv" / "tiny", *FAST)
    said = capsys.readouterr().out
    assert "returning to the last checkpoint, with 4 images at once" in said and "split into 4 parts" in said
    about = read_about(tmp_path / LAST)
    assert about.finished and read_state(tmp_path / LAST).at_once == 2 and len(about.history) == 3
    # The first epochs, for which there was memory, are what they were; the third differs by what batch norm sees.
    for row, usual in zip(about.history[:2], read_about(trained / LAST).history[:2], strict=True):
        assert row["train_loss"] == usual["train_loss"] and row["valid_accuracy"] == usual["valid_accuracy"]


def test_memory_for_no_two_images_ends_the_run_with_its_checkpoints_whole(tmp_path: Path, trained: Path) -> None:
    refusal = pytest.raises(UserError, match=r"does not fit into the device's memory, even two images at once")
    with inside(tmp_path, short_of_memory(1, FIRST, training=True), figures=False), refusal:
        command(train, "--data", trained / "csv" / "tiny", *FAST)
    assert read_state(tmp_path / LAST).epoch == 2
    assert_whole(tmp_path)


def test_memory_that_ends_while_validating_changes_nothing(tmp_path: Path, trained: Path) -> None:
    with inside(tmp_path, short_of_memory(5, 1, training=False, error=CPU), figures=False):
        command(train, "--data", trained / "csv" / "tiny", *FAST)
    best = [read_about(folder / LAST.with_name("best.safetensors")).metrics for folder in (trained, tmp_path)]
    assert best[0] == pytest.approx(best[1])


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 TiB"), GPU, CPU], ids=["memory", "gpu", "cpu"])
def test_memory_that_ends_elsewhere_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of memory; ")
