"""Train networks from scratch.

    python train.py --model resnet18                        # the lists in csv/lab3
    python train.py --model all --data csv/sample           # ResNet18, 50 and 152, one after the other
    python train.py --model resnet50 --data csv/cnmc --root ~/C-NMC_Leukemia --epochs 60
    torchrun --nproc-per-node=4 train.py --model resnet152  # four processes, one per GPU

The same command resumes an unfinished run; --fresh starts over. A run writes weights/<data>/<model>/best.safetensors (the epoch
with the best valid accuracy) and last.safetensors (to resume from), and into report/<data>/ history_<model>.csv,
run_<model>.json, log_<model>.txt and accuracy_comparison.png.
"""

from __future__ import annotations

import argparse
import sys
from argparse import BooleanOptionalAction
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if sys.flags.safe_path:  # python -P and PYTHONSAFEPATH leave out the folder of this script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab.options import GivenParser, add_machine, add_places, add_quiet, add_report, check_numbers, parse
from models import catalog


def arguments() -> argparse.ArgumentParser:
    """The options and their defaults."""
    parser = GivenParser(
        description="Train ResNets from scratch on lists of labelled images.",
        epilog="The same command resumes an unfinished run; --fresh starts over.",
    )
    add_quiet(parser)
    group = parser.add_argument_group("what to train")
    models = [*catalog.names(), "all"]
    group.add_argument("--model", default="resnet18", choices=models, help="all: ResNet18, 50 and 152 in turn")
    add_places(group)
    add_report(group)
    group.add_argument("--like", type=Path, help="repeat the run in this folder, such as weights/all4/resnet18")
    group.add_argument("--fresh", action="store_true", help="start over; an earlier run of the model is overwritten")
    trackers = ["tensorboard", "mlflow"]
    group.add_argument("--track", nargs="+", default=(), choices=trackers, help="log the run there (default: none)")

    group = parser.add_argument_group("images")
    group.add_argument("--size", type=int, help="side of the network input in px (default: 64 on the CPU, else 128)")
    group.add_argument("--window", type=int, help="side of the crop of the raw image in px (default: measured)")
    help_progressive = "half size for a third of the epochs, three quarters for the next (default: from ResNet50 on)"
    group.add_argument("--progressive", action=BooleanOptionalAction, help=help_progressive)
    help_augmentation = "none, or some of d4, geometry (any angle, zoom, shift), colour, and mixup or cutmix"
    help_augmentation += " (default: geometry,colour)"
    group.add_argument("--augmentation", default="geometry,colour", help=help_augmentation)

    add_recipe(parser)

    group = parser.add_argument_group("machine")
    add_machine(group)
    help_deterministic = "the same start gives the same bits: fixes the CPU's threads; a GPU becomes slower"
    group.add_argument("--deterministic", action="store_true", help=help_deterministic)
    help_compile = "torch.compile the training step (default: on a GPU, if measured steps show that it pays)"
    group.add_argument("--compile", action=BooleanOptionalAction, help=help_compile)
    return parser


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The options of the training recipe."""
    add = parser.add_argument_group("recipe", "a model may have other defaults: see models/catalog.py").add_argument
    add("--epochs", type=int, default=30, help="passes over the training list (default: 30)")
    help_budget = "minutes that the command should take: size, --progressive and epochs are chosen by measured steps"
    add("--budget", type=float, metavar="MINUTES", help=help_budget)
    add("--batch-size", type=int, help="images per optimizer step (default: 32 on the CPU, else 64)")
    add("--accumulate", type=int, default=1, help="split each batch into this many parts (default: 1)")
    help_optimizer = "sgd with Nesterov momentum 0.9, adamw, adam, or rmsprop (default: sgd)"
    add("--optimizer", choices=["sgd", "adamw", "adam", "rmsprop"], default="sgd", help=help_optimizer)
    add("--lr", type=float, help="peak learning rate (default: 0.05 for sgd, else 0.001)")
    help_decay = "on weights only (default: 0.0005 for sgd, 0.05 for adamw, else 0)"
    add("--weight-decay", type=float, help=help_decay)
    add("--warmup", type=float, default=1.0, help="epochs of linear warm-up (default: 1)")
    add("--smoothing", type=float, default=0.1, help="label smoothing (default: 0.1)")
    add("--ema", type=float, default=0.99, help="decay of the moving average of the weights per step (default: 0.99)")
    add("--clip", type=float, default=5.0, help="maximum norm of the gradient, 0 for none (default: 5)")
    help_weights = "none, balanced, or K numbers such as 1.2,1, whose ratios count (default: none)"
    add("--class-weights", default="none", help=help_weights)
    add("--patience", type=int, default=0, help="stop after this many epochs without a new best (default: 0, never)")
    add("--zero-init", action=BooleanOptionalAction, default=True, help="blocks start as the identity (default: yes)")
    add("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path or number before torch is imported."""
    from lab.checkpoints.headers import read_header, run_file
    from lab.data.lists import find_folder

    if args.like:
        read_header(run_file(args.like))
    else:
        check_numbers(args)
    if not args.like or "data" in args.given:
        find_folder(args.data, args.root, ("train", "valid"))


ARGS = parse(arguments, __name__, check_paths)

import math
import time
from contextlib import nullcontext
from itertools import chain

import numpy as np
import torch
from torch.nn import functional

from lab.checkpoints.checkpoint import About, TrainingState, load_network, read_about, read_state, save_checkpoint
from lab.checkpoints.ensembles import remove_members
from lab.checkpoints.histories import best_of, describe_best, epoch_line, rank, write_history, write_run
from lab.cpu.convolutions import replace_convolutions
from lab.data.augmentation import parts_of
from lab.data.batches import EVALUATION_BATCH, STORES, Batches
from lab.data.lists import DataSet, ImageList, list_digest, read_data_set, read_lists
from lab.data.preprocessing import Preprocessing, channel_statistics, choose_preprocessing
from lab.data.random_numbers import step_seed
from lab.data.store import Store, open_stores, warn_of_shared_images
from lab.distributed import Ranks, join
from lab.errors import UserError, out_of_memory, run
from lab.evaluation.confidence import fit_confidence
from lab.evaluation.inference import macro_scores, predict, score
from lab.evaluation.unlike import fit_typical
from lab.figures.runs import draw_data_figures, redraw_accuracy
from lab.files import alone, check_writable
from lab.hardware import Hardware, choose_hardware
from lab.signals import Stop, Stopped
from lab.text import counted, duration
from lab.threads import Threads
from lab.tracking import Tracking
from lab.training.algorithms import choose_algorithms
from lab.training.budget import LARGEST, fitting
from lab.training.compile import compiled, decide_compile
from lab.training.ema import EMA, interval
from lab.training.forecast import Pace, forecast, measure, measure_what_fits
from lab.training.log import Log
from lab.training.provenance import compare, differences, make_record, read_run, take_over
from lab.training.recipe import (
    Settings,
    chosen_settings,
    class_weights,
    clip_gradients,
    divide,
    learning_rate,
    make_optimizer,
    size_at,
)
from lab.training.resume import SavedRun, check_record, earlier_run, read_settings
from lab.training.run import Diverged, Run, RunFiles
from lab.training.snapshots import Snapshots
from resnet import zero_init_residual


@dataclass(frozen=True)
class Task:
    """What all runs of a command share."""

    args: argparse.Namespace
    given: dict[str, Any]
    like: tuple[About, TrainingState] | None
    data: DataSet
    lists: dict[str, ImageList]
    hardware: Hardware
    ranks: Ranks
    stop: Stop
    tracking: Tracking
    log: Log
    deadline: float = math.inf  # of the current model by --budget, on time.perf_counter's clock


class OutOfMemory(Exception):
    """A training step ran out of memory; the run has a last checkpoint."""


def main(args: argparse.Namespace) -> None:
    """Train each model, and keep what is printed in the runs' logs."""
    ranks = join()
    with Log() as log:
        train_models(args, ranks, log)


def train_models(args: argparse.Namespace, ranks: Ranks, log: Log) -> None:
    """Check the options and the lists, then train each model."""
    began, given = time.perf_counter(), args.given
    like = read_run(args.like) if args.like else None
    if like is not None and args.budget:
        raise UserError("--like and --budget exclude each other: a repeated run has the settings of the first.")
    if like is not None:
        given = take_over(like[0], args, given)
    check_numbers(args)
    tracking = Tracking(args.track if ranks.first else [], args.report)
    with ranks.first_before_others():
        try:
            data = read_data_set(args.data, args.root)
        except UserError as error:
            if like is None or "data" in args.given:
                raise
            raise UserError(f"{error} Or name the lists of the repeated run with --data and --root.") from None
        lists = read_lists(data, ("train", "valid"))
    for name, images in lists.items():
        counts = np.bincount(images.labels, minlength=len(data.classes))
        shares = ", ".join(f"{count:,} {name}" for count, name in zip(counts, data.classes, strict=True))
        print(f"{name}: {len(images):,} images ({shares})")
    if len(lists["train"]) < 2:
        raise UserError(f"{lists['train'].csv}: one image is not enough to train on; batch norm needs two or more.")
    class_weights(args.class_weights, lists["train"].labels, len(data.classes), torch.device("cpu"))
    parts_of(args.augmentation)
    hardware = choose_hardware(args.device, args.precision, args.deterministic)
    task = Task(args, given, like, data, lists, hardware, ranks, Stop(), tracking, log)
    with task.stop.listening(), tracking:
        models = catalog.depths() if args.model == "all" else [args.model]
        for number, model in enumerate(models):
            files = RunFiles(args.weights / data.name / model, args.report / data.name)
            if args.budget:  # what a model leaves of its share is for the next ones
                now, end = time.perf_counter(), began + 60 * args.budget
                task = replace(task, deadline=now + (end - now) / (len(models) - number))
            with alone(files.weights, "training") if ranks.first else nullcontext(), log.of_run():
                train_with_retries(files, task)


def train_with_retries(files: RunFiles, task: Task) -> None:
    """Train one model. A run that diverges returns to its last checkpoint once, with half the learning rate. A run that runs out
    of memory returns with half as many images per forward pass, as often as necessary."""
    model, fresh, lr_factor, at_once = files.weights.name, task.args.fresh, None, None
    while True:
        try:
            return train(files, task, fresh, lr_factor, at_once)
        except (Diverged, OutOfMemory) as error:
            diverged, problem = isinstance(error, Diverged), str(error)
        # Outside the except block, because the exception keeps the networks of the attempt in memory.
        fresh, state = False, read_state(files.last)
        if not diverged:
            settings = read_settings(files.last, read_about(files.last, model))
            at_once = divide(settings, task.ranks, len(task.lists["train"]), state.at_once)[0] // 2
            print(f"{problem}; returning to the last checkpoint, with {at_once} images at once", flush=True)
        elif state.lr_factor == 1:
            lr_factor = 0.5
            print(f"{problem}; returning to the last checkpoint, once, with half the learning rate.", flush=True)
        else:
            mend = "its checkpoints are kept. Train it anew with --fresh and a lower --lr."
            raise UserError(f"{problem}, with half the learning rate too; {mend}")


def train(files: RunFiles, task: Task, fresh: bool, lr_factor: float | None, at_once: int | None) -> None:
    """Train one model on one data set, from the start or from its last checkpoint. If given, ``lr_factor`` scales the learning
    rate from there on, and ``at_once`` limits the images of a forward pass."""
    if task.stop.asked:
        raise Stopped(task.stop.asked)
    check_like(files, task, fresh)
    saved = None if fresh else earlier_run(files, task.data, list_digest(task.data), task.given)
    if saved and saved.about.finished and read_about(files.best).confidence:  # which the end of the run writes
        print(f"{saved.about.model}: finished already, {describe_best(saved.about)}; --fresh trains it anew.")
        task.tracking.begin(saved, files.best)  # in case an earlier command did not track it, or not to the end
        task.tracking.end()
        return
    if saved is None and task.args.budget:
        task = within_budget(files, task, at_once)
    run = prepare(files, task, saved, at_once)
    pace = start(run, task) if saved is None else resume(run, task, saved)
    if lr_factor is not None:
        run.state.lr_factor = lr_factor
    snapshots = Snapshots(run, task.stop)
    if saved is None or lr_factor is not None:
        snapshots.write()  # replaces an earlier run's, before this run writes a best checkpoint
    if run.ranks.first:
        write_run(files.description, run.about)
        task.log.keep(files.log, saved is not None)
    task.tracking.begin(run, files.best)
    try:
        with task.stop.patiently():
            train_epochs(run, pace, snapshots, task)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or run.ranks.count > 1:  # several processes would have to return together
            raise
        raise OutOfMemory(f"{run.model}: out of memory") from None
    snapshots.stop_if_asked()
    finish(run, task.log)
    task.tracking.end()


# ---- prepare: images, settings, network ----------------------------------------------------------------------------------------


def check_like(files: RunFiles, task: Task, fresh: bool) -> None:
    """Raise :class:`UserError` if ``--like`` names the run itself."""
    like = task.args.like
    if like and not fresh and like.resolve() in [path.resolve() for path in (files.weights, files.best, files.last)]:
        raise UserError(f"--like {like}: is the run itself; give other --weights and --report to repeat it.")


def prepare(files: RunFiles, task: Task, saved: SavedRun | None, at_once: int | None) -> Run:
    """Decode the images, choose the settings, and build the network and its optimizer. The initial weights depend on the seed."""
    data, hardware, ranks, classes = task.data, task.hardware, task.ranks, len(task.data.classes)
    train_labels, valid_labels = (task.lists[name].labels for name in ("train", "valid"))
    if saved is None:
        preprocessing = new_preprocessing(files.weights.name, task)
        settings = chosen_settings(files.weights.name, task.args, task.given, hardware, preprocessing)
    else:
        preprocessing, settings = saved.about.preprocessing, saved.settings
    if at_once is None:
        at_once = known_memory(task, settings, saved)
    part_size, accumulate = divide(settings, ranks, len(train_labels), at_once)
    stores = open_images(files, task, preprocessing)
    digests = chain.from_iterable(stores[name].list_digests() for name in ("train", "valid"))
    record = make_record(hardware, ranks.count, digests)
    if saved is None:
        mean, std = channel_statistics(stores["train"].images)
        preprocessing = replace(preprocessing, mean=mean, std=std)
        about = new_about(files.weights.name, task, preprocessing, settings, record)
    else:
        check_record(saved.about, record, files.last, data.folder)
        about = replace(saved.about, settings=asdict(settings))
        if not about.records or differences(about.records[-1], record):
            about = replace(about, records=[*about.records, record])
    device, mixing = hardware.device, (settings.augmentation, classes)
    train = Batches(stores["train"], train_labels, preprocessing, part_size, device, settings.seed, ranks, *mixing)
    valid = Batches(stores["valid"], valid_labels, preprocessing, EVALUATION_BATCH, device, ranks=ranks)

    torch.manual_seed(settings.seed)
    network = catalog.build(about.model, classes, preprocessing.size)
    if settings.zero_init:
        zero_init_residual(network)
    hardware.place(network)
    if hardware.device.type == "cpu":
        replace_convolutions(network, about.algorithms)
    return Run(
        files=files,
        about=about,
        state=replace(saved.state if saved else TrainingState(), at_once=at_once),
        settings=settings,
        hardware=hardware,
        ranks=ranks,
        train=train,
        valid=valid,
        valid_labels=valid_labels,
        network=network,
        ema=EMA(network, settings.ema, interval(settings.ema, len(train) // accumulate)),
        optimizer=make_optimizer(network, settings, hardware.precision),
        scaler=torch.amp.GradScaler(hardware.device.type, enabled=hardware.precision == "fp16"),
        class_weight=class_weights(settings.class_weights, train_labels, classes, hardware.device),
        accumulate=accumulate,
    )


def within_budget(files: RunFiles, task: Task, at_once: int | None) -> Task:
    """The task with the size, the schedule and the number of epochs that fit into the time until its deadline, by steps of a run
    at the largest size."""
    began, args, model = time.perf_counter(), task.args, files.weights.name
    largest = args.size or max(LARGEST, catalog.find(model).smallest)
    print(f"budget: measuring steps of {model} at {largest} px")
    trial = prepare(files, replace(task, args=argparse.Namespace(**{**vars(args), "size": largest})), None, at_once)
    trial.choose_threads([])
    measured = (trial.network, trial.settings, trial.hardware, trial.train, trial.valid, trial.ranks, trial.accumulate)
    *_, pace = measure_what_fits(*measured)
    now = time.perf_counter()
    left = task.deadline - now - (now - began)  # because the images are decoded again, at the chosen size
    pace, left = task.ranks.of_first((pace, left))
    chosen = fitting(pace, trial.settings, left, task.given)
    sizes = f"up to {chosen.size} px" if chosen.progressive else f"at {chosen.size} px"
    takes = f"about {duration(pace.run(chosen))} of the {duration(left)} left for {model}, from measured steps"
    print(f"budget: {counted(chosen.epochs, 'epoch')} {sizes}; {takes}")
    options = {"epochs": chosen.epochs, "progressive": chosen.progressive}
    return replace(task, args=argparse.Namespace(**{**vars(args), "size": chosen.size}), given=task.given | options)


def new_preprocessing(model: str, task: Task) -> Preprocessing:
    """Choose the preprocessing of a new run; print size and window with the reasons."""
    asked, device = task.args.size, task.hardware.device.type
    size = asked or max(64 if device == "cpu" else 128, catalog.find(model).smallest)
    why = "as asked" if "size" in task.given else "by the budget" if asked else f"the default on {device}"
    print(f"size: {size} px, {why}")
    return choose_preprocessing(task.lists["train"], size, task.args.window)


def known_memory(task: Task, settings: Settings, saved: SavedRun | None) -> int | None:
    """The number of images that fit into memory at once, as measured by this run before or by the run that it repeats."""
    if saved is not None:
        return saved.state.at_once
    if task.like is not None and task.like[0].settings == asdict(settings):
        return task.like[1].at_once
    return None


def open_images(files: RunFiles, task: Task, preprocessing: Preprocessing) -> dict[str, Store]:
    """Decode the images of both lists, after a check that the output folders can be written."""
    with task.ranks.first_before_others():
        if task.ranks.first:
            check_writable(files.weights)
            check_writable(files.report)
        stores = open_stores(task.lists, preprocessing, STORES / task.data.name)
    warn_of_shared_images(stores)
    return stores


def new_about(
    model: str, task: Task, preprocessing: Preprocessing, settings: Settings, record: dict[str, str]
) -> About:
    """The description that the checkpoints of a new run carry. With ``--like``, print whether the weights will be the same."""
    data, labels, values = task.data, task.lists["train"].labels, asdict(settings)
    digest, share = list_digest(data), np.bincount(labels, minlength=len(data.classes)) / len(labels)
    if task.like is not None:
        threads = task.hardware.threads
        fixed = {"threads": str(threads.number)} if threads.fixed and task.hardware.device.type == "cpu" else {}
        compare(*task.like, values, digest, record | fixed, task.args.like)
    about = About(model, data.classes, preprocessing, data.name, digest, settings=values, records=[record])
    return replace(about, train_share=share.tolist())


# ---- start or resume -----------------------------------------------------------------------------------------------------------


def start(run: Run, task: Task) -> Pace:
    """Draw the preprocessing and the augmentation, measure the pace, and remove the files of an earlier run."""
    settings, files = run.settings, run.files
    if run.ranks.first:
        labels = (task.lists["train"], task.data.classes)
        draw_data_figures(files.report, *labels, run.about.preprocessing, settings.seed, settings.augmentation)
    why = "as asked" if task.args.batch_size else f"the default of {run.model} on {run.hardware.device.type}"
    whole = run.train.batch_size * run.accumulate * run.ranks.count
    print(f"batch: {whole} images per step, {why}; peak learning rate {settings.lr:g}")
    pace = plan(run, task)
    if run.ranks.first:
        remove_members(files.weights)
        task.tracking.forget(files.best)
    return pace


def resume(run: Run, task: Task, saved: SavedRun) -> Pace | None:
    """Load the last checkpoint, update the history and the figure to it, and measure the pace of the remaining epochs."""
    state = run.state
    run.load_last_checkpoint()
    if run.ranks.first:
        write_history(run.files.history, saved.about.history)  # the run may have been killed before it wrote these
        redraw_accuracy(run.files.report, run.model, training=True)
    within = f" and {counted(state.step, 'step')} of the next" if state.step else ""
    so_far = f", {describe_best(saved.about)}" if saved.about.metrics else ""
    print(f"{run.model}: resuming after epoch {state.epoch} of {run.settings.epochs}{within}{so_far}.")
    return None if run.about.finished else plan(run, task)


def plan(run: Run, task: Task) -> Pace:
    """Choose the number of threads, split the batch until a step fits into memory, choose the convolutions' algorithms, print how
    long the run will take, and decide whether to compile it."""
    settings, before, like = run.settings, run.accumulate, task.like[0] if task.like else None
    like = like if like and like.model == run.model else None
    run.choose_threads(like.threads if like else [])
    run.train, run.accumulate, pace = measure_what_fits(
        run.network, settings, run.hardware, run.train, run.valid, run.ranks, before
    )
    if run.accumulate > before:
        run.state.at_once = run.train.batch_size
    if choose_algorithms(run, pace, like, STORES / "convolutions.json"):
        pace = measure(run.network, settings, run.hardware, run.train, run.valid)
    count = sum(parameter.numel() for parameter in run.network.parameters())
    print(f"{run.model}: {count:,} parameters, {counted(settings.epochs, 'epoch')} of {counted(run.steps, 'step')}")
    print(forecast(pace, settings, run.state.epoch, run.state.step / run.steps), flush=True)
    run.forward = run.parallel = run.ranks.parallel(run.network, run.hardware.device)
    compiles = decide_compile(task.args.compile, run, pace)
    *earlier, latest = run.about.records
    run.about = replace(run.about, records=[*earlier, latest | {"compile": "on" if compiles else "off"}])
    if compiles:
        run.forward = compiled(run.parallel)
        run.hardware.threads.due = math.inf  # no comparison: another number would compile the network anew
    return pace


# ---- the epochs ----------------------------------------------------------------------------------------------------------------


def train_epochs(run: Run, pace: Pace | None, snapshots: Snapshots, task: Task) -> None:
    """Train, validate and save, epoch by epoch, until the last one or until ``--patience`` stops the run."""
    while not run.about.finished:
        assert pace is not None
        size = size_at(run.state.epoch, run.settings)
        train_epoch(run, snapshots)
        row = validate(run, size, snapshots)
        save(run, row, snapshots)
        task.tracking.epoch()
        left = pace.run(run.settings, run.state.epoch) * row["seconds"] / pace.epoch(size)
        print(f"{epoch_line(run.model, row, run.about, run.settings.epochs)}, {duration(left)} left", flush=True)
        task.log.save()
        snapshots.stop_if_asked()
    if run.state.epoch < run.settings.epochs:
        stale = run.state.epoch - int(run.about.metrics["epoch"])
        print(f"{run.model}: stopped early, no new best for {stale} epochs (--patience {run.settings.patience}).")


def train_epoch(run: Run, snapshots: Snapshots) -> None:
    """One pass over the training images: forward pass, loss, backward pass, optimizer step, moving average of the weights."""
    settings, optimizer, scaler = run.settings, run.optimizer, run.scaler
    run.begin_epoch()
    for step, parts in run.optimizer_steps(snapshots.after_step):
        for part, (images, labels) in enumerate(parts):
            if run.has_dropout:  # so that a resumed run draws the same
                torch.manual_seed(step_seed(settings.seed, step, part, run.ranks.rank))
            with run.hardware.autocast():
                logits = run.forward(images)
                # Not reduction="mean": it divides by the sum of the part's class weights, so that parts would not add up.
                loss = functional.cross_entropy(
                    logits, labels, run.class_weight, label_smoothing=settings.smoothing, reduction="sum"
                )
                mean = loss / len(labels)
            scaler.scale(mean / run.accumulate).backward()
            run.count(loss, logits, labels)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, run.steps, settings) * run.state.lr_factor
        if settings.clip:
            scaler.unscale_(optimizer)
            clip_gradients(run.network.parameters(), settings.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        run.ema.update(step)


def validate(run: Run, size: int, snapshots: Snapshots) -> dict[str, float]:
    """Measure the averaged weights on valid. Returns the epoch's row of the history; accuracy and loss of the training images
    were summed up during the epoch."""
    loss_sum, correct = run.sums()
    trained = time.perf_counter() - run.began
    epoch, ranks = run.state.epoch + 1, run.ranks
    run.note_threads(epoch * run.steps)
    # The number does not change meanwhile, so that a repeated run validates with the same.
    hardware = replace(run.hardware, threads=Threads(run.hardware.threads.number))
    ranks.share_buffers(run.ema.network)
    try:
        with snapshots.stop.patiently(ranks.count > 1):  # several processes stop together, after the epoch
            batches, total = run.valid.epoch(size=size), len(run.valid)
            probabilities = predict(
                run.ema.network, batches, hardware, title=f"validating {run.model}", ranks=ranks, total=total
            )
    except Stopped:
        if ranks.count == 1:
            snapshots.within_epoch(run.steps, trained)
        raise
    accuracy, loss = score(probabilities, run.valid_labels)
    if not math.isfinite(loss):
        raise Diverged(f"{run.model} epoch {epoch}: the network's outputs are no longer finite numbers")
    precision, recall, f1 = macro_scores(probabilities, run.valid_labels)
    return {
        "epoch": epoch,
        "train_accuracy": correct / run.images,
        "valid_accuracy": accuracy,
        "train_loss": loss_sum / run.images,
        "valid_loss": loss,
        "valid_precision": precision,
        "valid_recall": recall,
        "valid_f1": f1,
        "learning_rate": learning_rate(epoch * run.steps - 1, run.steps, run.settings) * run.state.lr_factor,
        "size": size,
        "seconds": round(time.perf_counter() - run.began, 2),
        "images_per_second": round(run.images / trained, 1),
    }


def save(run: Run, row: dict[str, float], snapshots: Snapshots) -> None:
    """Write the checkpoints and the history after an epoch. The best checkpoint is written before the last one, so that a run
    killed in between repeats the epoch and writes both."""
    settings, epoch, better = run.settings, int(row["epoch"]), rank(row) > best_of(run.about)
    about = replace(run.about, history=[*run.about.history, row])
    if better:
        metrics = {name: row[name] for name in ("epoch", "valid_accuracy", "valid_loss")}
        about = replace(about, metrics=metrics | {"valid_images": len(run.valid_labels)})
    stopping = bool(settings.patience) and epoch - int(about.metrics["epoch"]) >= settings.patience
    run.about = replace(about, finished=stopping or epoch == settings.epochs)
    run.state = TrainingState(epoch, lr_factor=run.state.lr_factor, at_once=run.state.at_once, scaler=run.state.scaler)
    if run.ranks.first and better:
        about = replace(run.about, preprocessing=replace(run.about.preprocessing, size=int(row["size"])))
        save_checkpoint(run.files.best, about, run.averaged_tensors(), run.state)
    snapshots.write()
    if run.ranks.first:
        write_history(run.files.history, run.about.history)
        redraw_accuracy(run.files.report, run.model, training=True)


# ---- finish --------------------------------------------------------------------------------------------------------------------


def finish(run: Run, log: Log) -> None:
    """Measure the best checkpoint with D4 test-time augmentation on valid, and fit how far to trust its predictions. The results
    are saved in the checkpoint for the other commands, together with the whole history, because the best checkpoint may be the
    only file that is passed on."""
    path = run.files.best
    network, about = load_network(path, None)
    run.hardware.place(network)
    size, title, total = about.preprocessing.size, f"validating {about.model}", len(run.valid)
    plain, averaged = (
        predict(network, run.valid.epoch(size=size), run.hardware, d4, f"{title}{' with D4' * d4}", run.ranks, total)
        for d4 in (False, True)
    )
    accuracy, loss = score(averaged, run.valid_labels)
    metrics = about.metrics | {"valid_accuracy_d4": accuracy, "valid_loss_d4": loss}
    about = replace(about, metrics=metrics, history=run.about.history)
    if run.ranks.first:
        typical, limit = fit_typical(run.train, run.valid, size)
        confidence = fit_confidence(run.valid_labels, plain, averaged) | {"unlike": limit}
        about = replace(about, confidence=confidence, typical=typical)
        tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    print(
        f"{about.model}: {describe_best(about)}, {100 * accuracy:.2f} % averaged over D4; saved in {path}.", flush=True
    )
    log.save()  # before the checkpoint, which tells that the run has finished, so that a run killed in between writes it again
    if run.ranks.first:
        save_checkpoint(path, about, tensors, read_state(path))


if __name__ == "__main__":
    run(main, ARGS)
