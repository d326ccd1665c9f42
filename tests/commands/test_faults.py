"""Faults while running: a full or read-only disk, missing images, out of memory (docs/reliability.md)."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

import predict
import train
from lab.checkpoints.checkpoint import read_about, read_state, read_tensors
from lab.data.lists import read_data_set, read_lists
from lab.data.preprocessing import Preprocessing
from lab.data.store import open_stores
from lab.errors import UserError
from lab.errors import run as run_command
from tests import made
from tests.made import BEST, CPU_MEMORY, FAST, GPU_MEMORY, LAST, LONG, Capture, Patch, Run, Trainer


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Limit the size of files to ``size`` bytes, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_whole(folder: Path) -> None:
    """Every checkpoint below a folder can be read, and there are no temporary files."""
    for path in folder.rglob("*.safetensors"):
        assert read_about(path) and read_tensors(path)
    assert not list(folder.rglob("*.tmp*"))


# ---- full and read-only disks


MEND = "make room or give access, then run the command again."


@pytest.mark.parametrize("size", [1_000, 100_000, 300_000])
def test_no_room_is_one_sentence_and_the_run_is_resumed_later(
    tmp_path: Path, trained: Path, run: Run, size: int, capsys: Capture
) -> None:
    """The limits stop the run at the image store, at a checkpoint, and nowhere."""
    store, checkpoint = 24 * 64 * 64 * 3, (trained / LAST).stat().st_size
    with no_file_above(size), pytest.raises(SystemExit) as ended:
        run_command(run)
    assert ended.value.code == (2 if size < max(store, checkpoint) else 0)
    if ended.value.code:
        message = capsys.readouterr().err.splitlines()[-1]
        file = ".store" if size < store else "last.safetensors"
        assert message.startswith("error: ") and file in message and os.strerror(errno.EFBIG) in message
        assert message.endswith(MEND)
    assert_whole(tmp_path)
    run()
    made.assert_same_run(trained, tmp_path)


@pytest.mark.parametrize("call", [1, 4, 8])
def test_a_disk_that_turns_read_only_at_any_write(
    tmp_path: Path, trained: Path, run: Run, call: int, capsys: Capture
) -> None:
    """Simulated, for systems on which users cannot mount a disk."""
    replace, calls = Path.replace, count(1)

    def refused(path: Path, target: Path) -> Path:
        if next(calls) >= call:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path), None, str(target))
        return replace(path, target)

    with Patch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(Path, "replace", refused)
        run_command(run)
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert os.strerror(errno.EROFS) in message and message.endswith(MEND)
    assert_whole(tmp_path)
    run()
    made.assert_same_run(trained, tmp_path)


def test_a_submission_without_room_leaves_the_old_one(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    submission = tmp_path / "csv" / "tiny" / "submission_resnet18.csv"
    submission.write_text("the old one")
    with made.inside(tmp_path):
        options = ("--data", "tiny", "--model", "resnet18", "--device", "cpu", "--precision", "fp32")
        with no_file_above(20), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            made.command(predict, *options)
        assert submission.read_text() == "the old one"
        made.command(predict, *options)
    assert submission.read_text().startswith("ID,label")


class SmallDisk:
    """A file system at ``path``, which is mounted only for the processes of ``trainer``; the test sees it at ``inside``."""

    def __init__(self, path: Path, kibibytes: int) -> None:
        path.mkdir()
        mount = f"mount -t tmpfs -o size={kibibytes}k tmpfs '{path}' && exec \"$@\""
        self.path = path
        self.trainer = Trainer("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", SNAPSHOT="0")
        self.inside = Path(f"/proc/{self.trainer.server.pid}/root{path}")

    def fill(self) -> None:
        """Fill it with a file."""
        with (self.inside / "ballast").open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def protect(self, folder: str) -> None:
        """Make a folder read-only by a second mount, although the run has its lock file open for writing."""
        self.mount(f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}")

    def mount(self, line: str) -> None:
        """Run a shell command on the disk."""
        server = str(self.trainer.server.pid)
        enter = ["nsenter", "--target", server, "--user", "--mount", "--preserve-credentials"]
        subprocess.run([*enter, "sh", "-c", f"cd '{self.path}' && {line}"], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """A disk of one MiB, for all tests."""
    top = tmp_path_factory.mktemp("mounted")
    line = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(top)]
    installed = shutil.which("unshare") and shutil.which("nsenter")
    if not installed or subprocess.run(line, capture_output=True).returncode:
        pytest.skip("needs a system on which users can mount a file system (unshare --map-root-user --mount)")
    disk = SmallDisk(top / "disk", 1024)
    yield disk
    disk.trainer.close()


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
    """The run ends with one sentence and whole checkpoints. With the disk mended, it ends like an uninterrupted one."""
    trainer, options = small_disk.trainer, [*LONG, "--weights", str(small_disk.path / "weights")]
    made.make_data(tmp_path / "csv" / "tiny")
    with trainer.held(tmp_path, 20, *options):
        small_disk.fill() if fault == "full" else small_disk.protect("weights/tiny/resnet18")
    assert trainer.status() == 2
    message, reason = (tmp_path / "stderr").read_text(), errno.ENOSPC if fault == "full" else errno.EROFS
    assert f"last.safetensors: {os.strerror(reason)}; {MEND}" in message and "Traceback" not in message
    assert_whole(small_disk.inside)
    assert read_state(small_disk.inside / LAST).epoch == 3
    if fault == "full":
        (small_disk.inside / "ballast").unlink()
    else:
        small_disk.mount("umount weights/tiny/resnet18")
    assert trainer.run(tmp_path, *options).returncode == 0
    shutil.copytree(small_disk.inside / "weights", tmp_path / "weights")
    made.assert_same_run(uninterrupted[0], tmp_path)


def test_a_full_disk_is_noticed_before_the_store_is_mapped(small_disk: SmallDisk, tmp_path: Path) -> None:
    """Writing to a memory map of a file on a full disk would end the process with SIGBUS."""
    made.make_data(tmp_path / "csv" / "tiny")
    (tmp_path / ".store").symlink_to(small_disk.path, target_is_directory=True)
    small_disk.fill()
    done = small_disk.trainer.run(tmp_path, *LONG)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f".npy: {os.strerror(errno.ENOSPC)}; make room" in done.stderr


# ---- missing images


def damage(path: Path, fault: str) -> None:
    """Delete or truncate an image."""
    path.unlink() if fault == "deleted" else os.truncate(path, 200)


@pytest.mark.parametrize("fault", ["deleted", "truncated"])
def test_images_lost_after_the_check_are_named_by_row(tmp_path: Path, fault: str) -> None:
    data = read_data_set(made.make_data(tmp_path / "csv" / "tiny"))
    lists = read_lists(data, ("train", "valid"))
    for number in (3, 7):
        damage(data.folder / "train" / f"{number}.png", fault)
    with pytest.raises(UserError, match=r"2 images cannot be used") as error:
        open_stores(lists, Preprocessing(48, 64, 32, "cell"), tmp_path / ".store")
    for row in ("train.csv line 5: ./train/3.png", "train.csv line 9: ./train/7.png"):
        assert row in str(error.value)
    assert not list((tmp_path / ".store").glob("train*"))


def test_images_lost_while_training_change_nothing_until_the_next_start(
    tmp_path: Path, trained: Path, work: Patch
) -> None:
    """The run has decoded them. The next start checks them and names those that are missing."""
    data = made.make_data(tmp_path / "csv" / "tiny")

    def damage_all(_: object, step: int) -> None:
        for number, path in enumerate(sorted(data.rglob("*.png")) if step == 4 else []):
            damage(path, ("deleted", "truncated")[number % 2])

    made.after_steps(work, damage_all)
    made.command(train, "--data", "tiny", *FAST)
    made.assert_same_run(trained, tmp_path)
    with pytest.raises(UserError, match=r"train.csv line \d+: .* does not exist"):
        made.command(train, "--data", "tiny", *FAST, "--fresh")
    made.assert_same_run(trained, tmp_path)


def test_there_is_no_worker_process_that_could_be_killed(trainer: Trainer, tmp_path: Path) -> None:
    """Threads decode the images, and the training process makes the batches."""
    made.make_data(tmp_path / "csv" / "tiny")
    with trainer.held(tmp_path, 20, *LONG) as child:
        children = [path.read_text() for path in Path(f"/proc/{child}/task").glob("*/children")]
    assert trainer.status() == 0
    if not children:
        pytest.skip("needs a system that lists a process's children in /proc")
    assert not any(children)


# ---- out of memory

FIRST = 2 + 2 * 3 + 1  # the first pass of the third epoch, after two to measure and three in each epoch


@pytest.mark.parametrize("error", [GPU_MEMORY, CPU_MEMORY], ids=["gpu", "cpu"])
def test_out_of_memory_while_training_halves_the_images_at_once(
    tmp_path: Path, trained: Path, capsys: Capture, error: RuntimeError
) -> None:
    """As when another program takes a part of the GPU: the run returns to its last checkpoint with half of the images at once.
    The step that is measured first shows that only a quarter fits."""
    with made.inside(tmp_path, made.short_of_memory(2, FIRST, error=error), figures=False):
        made.command(train, "--data", trained / "csv" / "tiny", *FAST)
    output = capsys.readouterr().out
    assert "returning to the last checkpoint, with 4 images at once" in output and "split into 4 parts" in output
    about = read_about(tmp_path / LAST)
    assert about.finished and read_state(tmp_path / LAST).at_once == 2 and len(about.history) == 3
    # The first epochs do not change. The third differs by batch norm's statistics.
    for row, usual in zip(about.history[:2], read_about(trained / LAST).history[:2], strict=True):
        assert row["train_loss"] == usual["train_loss"] and row["valid_accuracy"] == usual["valid_accuracy"]


@pytest.mark.parametrize("first", [1, FIRST])
def test_memory_for_fewer_than_two_images_ends_the_run(tmp_path: Path, trained: Path, first: int) -> None:
    """Before it begins, or with its checkpoints whole."""
    refusal = pytest.raises(UserError, match=r"fit into the device's memory, even two images at once; choose a smaller")
    with made.inside(tmp_path, made.short_of_memory(1, first), figures=False), refusal:
        made.command(train, "--data", trained / "csv" / "tiny", *FAST)
    assert [read_state(path).epoch for path in tmp_path.rglob("last.safetensors")] == ([] if first == 1 else [2])
    assert_whole(tmp_path)


def test_out_of_memory_while_validating_changes_nothing(tmp_path: Path, trained: Path) -> None:
    with made.inside(tmp_path, made.short_of_memory(5, training=False, error=CPU_MEMORY), figures=False):
        made.command(train, "--data", trained / "csv" / "tiny", *FAST)
    assert read_about(tmp_path / BEST).metrics == pytest.approx(read_about(trained / BEST).metrics)
