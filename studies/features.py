"""Features of the images of a list: HOG, or what a trained network passes to its last layer. Computed once into a store.

A store is two files in ``.store/<data>/features``: ``….npy`` (float32 [N, D], one row for each image, in the list's order) and
``….json``. Its key is a hash of everything that the numbers depend on, so that a change of any of it computes them again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import Memory, Parallel, delayed
from PIL import Image
from skimage.feature import hog
from torch import Tensor, nn

from lab.checkpoints.checkpoint import check_data, load_network
from lab.checkpoints.ensembles import others
from lab.data.batches import STORES, Batches, stored_batches
from lab.data.images import decode
from lab.data.lists import DataSet, ImageList, problems_error
from lab.data.preprocessing import Preprocessing, choose_preprocessing, sample_images
from lab.data.store import checksum, files_key
from lab.errors import UserError, out_of_memory
from lab.evaluation.inference import for_prediction, outputs
from lab.files import PROJECT, alone, replacing, reserve, sha256, write_whole
from lab.hardware import Hardware
from lab.terminal import progress, warn
from lab.text import counted, duration
from lab.threads import decoding_threads
from models import catalog
from studies import bases
from studies.systems import count_network, training_cost

HOG = "hog"
SIDE, ORIENTATIONS, CELL, BLOCK = 360, 9, 10, 2  # HOG: px of the image, directions, px of a cell, cells of a block
BLOCKS = SIDE // CELL - BLOCK + 1  # blocks along a side; they overlap
HOG_SHAPE = (BLOCKS, BLOCKS, BLOCK, BLOCK, ORIENTATIONS)  # of the 44,100 features of an image
BATCH = 64  # images
NAMES = (HOG, *catalog.names(), *bases.NAMES)
R = TypeVar("R")


@dataclass(frozen=True)
class Source:
    """What computes features.

    Attributes:
        name, title: in file names and in texts.
        size: side of the input, px.
        width: number of features D.
        parameters: number of parameters behind them; 0 for HOG.
        macs: multiply-accumulates for one image; None for HOG, where they are not counted.
        settings: everything that the features depend on, apart from the images and the code.
        code: hash of the code that computes them.
        rows: the features [D] of each image of a list, in its order. Its first argument is the list's name.
        flop, seconds: cost and duration of the training of the network, if it was trained on the same images.
    """

    name: str
    title: str
    size: int
    width: int
    parameters: int
    macs: int | None
    settings: dict[str, Any]
    code: str
    rows: Callable[[str, ImageList], Iterator[np.ndarray]]
    flop: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Features:
    """The features of a list, float32 [N, D], memory-mapped, and the seconds that computing them took."""

    values: np.ndarray
    seconds: float


def open_source(
    name: str,
    data: DataSet,
    train: ImageList,
    weights: Path,
    hardware: Hardware,
    size: int | None = None,
    file: Path | None = None,
) -> Source:
    """What computes the features called ``name``, one of ``NAMES``.

    ``weights`` is the folder of checkpoints. ``size`` and ``file`` are for networks with ImageNet weights: side of the input in
    px, and file of weights. Raises :class:`UserError` for a checkpoint that is missing, damaged, or of other classes or lists.
    """
    if name == HOG:
        return hog_source(train)
    if name in bases.NAMES:
        return base_source(name, data, train, hardware, size, file)
    return network_source(weights / data.name / name / "best.safetensors", name, data, len(train), hardware)


def available_memory() -> float:
    """GiB that a process can allocate: what the kernel calls available, within the limit of the control group; infinity if
    neither is known."""
    found = math.inf
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return found if limit == "max" else min(found, (int(limit) - int(used)) / 2**30)
    except (OSError, StopIteration, ValueError):
        return found


def kept(function: Callable[..., R], data_name: str) -> Callable[..., R]:
    """The function with its results kept in the store, by joblib. They are computed anew for other arguments, or if the module of
    the function has changed."""
    module = inspect.getmodule(function)
    assert module
    digest = hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]
    folder = STORES / data_name / "studies"
    own = folder / f"{function.__name__}-{digest}"
    for old in folder.glob(f"{function.__name__}-*"):
        if old != own:
            shutil.rmtree(old, ignore_errors=True)
    cached = Memory(own, verbose=0).cache(function)

    def call(*values: Any) -> R:
        if cached.check_call_in_cache(*values):
            print(f"{function.__name__.replace('_', ' ')}: kept from an earlier start", flush=True)
        return cached(*values)

    return call


def hog_source(train: ImageList) -> Source:
    """Histograms of oriented gradients (Dalal and Triggs 2005) of the whole image in grey, scaled to ``SIDE`` px."""
    white = sample_images(train, 20)[1]  # 0 unless the images are greys of more than 8 bits
    settings = {"side": SIDE, "orientations": ORIENTATIONS, "cell": CELL, "block": BLOCK, "white": white}
    code = hashlib.sha256(
        (version("scikit-image") + inspect.getsource(hog_features) + inspect.getsource(hog_of)).encode()
    ).hexdigest()
    width = int(np.prod(HOG_SHAPE))
    rows = partial(image_rows, partial(hog_features, white=white), "HOG")
    return Source(HOG, "HOG", SIDE, width, 0, None, settings, code, rows)


def hog_features(path: Path, white: float) -> np.ndarray:
    """The HOG features of an image, float32 [44100]; an image that is not square is stretched."""
    grey = Image.fromarray(decode(path.read_bytes(), white=white)).convert("L")
    return hog_of(np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))


def hog_of(grey: np.ndarray) -> np.ndarray:
    """The HOG features of a grey image uint8 [360, 360], float32 [44100]."""
    found = hog(grey, ORIENTATIONS, (CELL, CELL), (BLOCK, BLOCK), block_norm="L2-Hys")
    return found.astype(np.float32)


def image_rows(compute: Callable[[Path], np.ndarray], what: str, name: str, images: ImageList) -> Iterator[np.ndarray]:
    """What ``compute`` returns for each image file, in several processes, because half of scikit-image's time holds the
    interpreter lock. Raises one :class:`UserError` for all images that cannot be read, after the last image."""
    processes = min(decoding_threads(), 1 + len(images) // 100)  # starting one takes as long as a hundred images
    of = f"{counted(len(images), 'image')} by {processes} process{'es' * (processes > 1)}"
    print(f"{what} of {name}.csv: {of}", flush=True)
    problems = []
    parallel = Parallel(processes, return_as="generator", batch_size=8, pre_dispatch="4*n_jobs")
    for index, found in enumerate(parallel(delayed(row_or_error)(compute, path) for path in images.paths)):
        if isinstance(found, Exception):
            problems.append(images.problem(index, found))
        else:
            yield found
    if problems:
        raise problems_error(f"{counted(len(problems), 'image')} cannot be used:", problems)


def row_or_error(compute: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | Exception:
    """The result for an image file, or the error of one that cannot be read."""
    try:
        return compute(path)
    except (OSError, ValueError) as error:
        return error


def network_source(path: Path, model: str, data: DataSet, images: int, hardware: Hardware) -> Source:
    """The input of the last linear layer of a network that was trained on these ``images``, such as a ResNet's pooled feature
    maps."""
    if others(path.parent):
        raise UserError(f"{path.parent}: contains an average of several networks; name the folder of one of them.")
    digest = sha256(path) if path.is_file() else ""
    network, about = load_network(path, model)
    check_data(path, about, data)
    if "valid_accuracy_d4" not in about.metrics:  # which the end of a run writes into its best checkpoint
        warn(f"{path}: its run has not finished; these are the features of its best epoch so far.")
    last = last_linear(network)
    size = about.preprocessing.size
    parameters, macs, _ = count_network(network, size)
    parameters -= sum(parameter.numel() for parameter in last.parameters())
    fast = for_prediction(hardware.place(network), hardware)
    settings = {"weights": digest, "preprocessing": asdict(about.preprocessing)} | computed_by(hardware)
    rows = partial(network_rows, partial(before_last, fast, hardware), data.name, about.preprocessing, hardware)
    title = catalog.find(model).title
    flop = training_cost(model, len(data.classes), (row["size"] for row in about.history), images)
    seconds = sum(row["seconds"] for row in about.history)
    return Source(model, title, size, last.in_features, parameters, macs, settings, network_code(), rows, flop, seconds)


def base_source(
    name: str, data: DataSet, train: ImageList, hardware: Hardware, size: int | None, file: Path | None
) -> Source:
    """The pooled features of a network with ImageNet weights."""
    base = bases.open_base(name, file)
    size = size or base.size
    bases.check_size(name, size)
    preprocessing = replace(choose_preprocessing(train, size), mean=base.mean, std=base.std)
    parameters, macs, _ = count_network(base.network, size)
    hardware.place(base.network)

    def forward(images: Tensor) -> Tensor:
        with hardware.autocast():
            return base.features(images.contiguous(memory_format=torch.channels_last))

    settings = {"weights": base.digest, "preprocessing": asdict(preprocessing)} | computed_by(hardware)
    rows = partial(network_rows, forward, data.name, preprocessing, hardware)
    code = network_code(*bases.packages(name))
    return Source(name, base.title, size, base.width, parameters, macs, settings, code, rows)


def computed_by(hardware: Hardware) -> dict[str, str]:
    """What the rounding of the features depends on."""
    return {"device": hardware.device.type, "precision": hardware.precision}


def last_linear(network: nn.Module) -> nn.Linear:
    """The linear layer that was registered last, which computes the logits."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def network_code(*packages: str) -> str:
    """A hash of the code that computes the features of a network, and of the versions of torch and other ``packages``."""
    digest = hashlib.sha256(" ".join([torch.__version__, *map(version, packages)]).encode())
    files = [
        "lab/evaluation/inference.py",
        "lab/cpu/fused_inference.py",
        "lab/data/augmentation.py",
        "studies/bases.py",
        "studies/features.py",
    ]
    for path in [
        *(PROJECT / name for name in files),
        *sorted(PROJECT.glob("models/*.py")),
        PROJECT / "resnet/resnet.py",
    ]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def before_last(network: nn.Module, hardware: Hardware, images: Tensor) -> Tensor:
    """The input [N, D] of a network's last linear layer."""
    found: list[Tensor] = []
    hook = last_linear(network).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        outputs(network, images, hardware)
    finally:
        hook.remove()
    return found[0].float()


def network_rows(
    forward: Callable[[Tensor], Tensor],
    data_name: str,
    preprocessing: Preprocessing,
    hardware: Hardware,
    name: str,
    images: ImageList,
) -> Iterator[np.ndarray]:
    """The features of each image by a network's ``forward``; the images come from their store."""
    batches: Batches = stored_batches(data_name, name, images, preprocessing, hardware.device).with_batch_size(BATCH)
    print(f"features of {name}.csv: {counted(len(images), 'image')}", flush=True)
    for batch, _, _ in batches:
        yield from in_parts(forward, batch).cpu().numpy()


@torch.inference_mode()
def in_parts(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``forward`` of a batch; if memory runs out, the batch is split in halves."""
    try:
        return forward(images)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or len(images) == 1:
            raise
    return torch.cat([in_parts(forward, half) for half in images.chunk(2)])


def stored_features(source: Source, data_name: str, name: str, images: ImageList) -> Features:
    """The features of a list, which are computed if the store has none. Raises :class:`UserError` for unreadable images."""
    folder = STORES / data_name / "features"
    kind = f"{name}-{source.name}"
    key = files_key(images.paths, [source.code, source.settings])
    array = folder / f"{kind}-{key}.npy"
    found = load(array, key, (len(images), source.width))
    if found is None:
        with alone(folder, "computing features", wait=True):
            found = load(array, key, (len(images), source.width))
            if found is None:
                remove_older(folder, kind, array)
                build(array, key, source, name, images)
                found = load(array, key, (len(images), source.width))
    if found is None:
        raise UserError(f"{array}: cannot be read after it was written; check the disk.")
    return found


def load(array: Path, key: str, shape: tuple[int, int]) -> Features | None:
    """Open a store; None if it is missing, damaged or of other images."""
    try:
        values = np.load(array, mmap_mode="r")
        manifest = json.loads(array.with_suffix(".json").read_text())
        intact = manifest["key"] == key and values.shape == shape and values.dtype == np.float32
        intact = intact and manifest["crc32"] == checksum(array, [key])
        return Features(values, float(manifest["seconds"])) if intact else None
    except Exception:  # numpy raises EOFError, TokenError and others on damaged files
        return None


def remove_older(folder: Path, kind: str, array: Path) -> None:
    """Delete other features of the same list and source, and say why features are computed that were there in part."""
    if array.exists():
        print(f"{array}: damaged, or of other images; computing these features again")
    if left := list(folder.glob(f".{kind}-*.tmp")):
        print(f"{kind}: computing these features was interrupted; this step starts again")
        for incomplete in left:
            shutil.rmtree(incomplete, ignore_errors=True)
    for old in folder.iterdir():
        if re.fullmatch(rf"{kind}-[0-9a-f]+\.(npy|json)", old.name):
            old.unlink(missing_ok=True)


def build(array: Path, key: str, source: Source, name: str, images: ImageList) -> None:
    """Compute the features of a list into a new store."""
    began = time.perf_counter()
    with replacing(array) as temporary:
        shape = (len(images), source.width)
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        reserve(temporary)
        rows = source.rows(name, images)
        for index, row in enumerate(progress(rows, f"{source.title} of {name}", len(images), lines=True)):
            values[index] = row
        values.flush()
        if not all(np.isfinite(values[begin : begin + 1024]).all() for begin in range(0, len(values), 1024)):
            raise UserError(f"{source.title}: features of {name}.csv are not finite; train the network again.")
    seconds = time.perf_counter() - began
    write_whole(
        array.with_suffix(".json"), json.dumps({"key": key, "crc32": checksum(array, [key]), "seconds": seconds})
    )
    print(f"features of {name}.csv: {shape[0]:,} × {shape[1]:,} in {duration(seconds)}, kept in {array}", flush=True)
