"""Train ResNets from scratch.

    python train.py --model resnet18                        # the lists in csv/lab3
    python train.py --model all --data csv/sample           # the three depths in turn
    python train.py --model resnet50 --data csv/cnmc --root ~/C-NMC_Leukemia --epochs 60
    torchrun --nproc-per-node=4 train.py --model resnet152  # a process for each of four GPUs

Started again, an unfinished run goes on where it stopped, and a finished one says so; --fresh starts over. A run writes
weights/<data>/<model>/best.safetensors (by valid accuracy), last.safetensors (to go on from), report/<data>/history_<model>.csv
and report/<data>/accuracy_comparison.png.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab.errors import answer
from lab.options import DEPTHS, MODELS, add_machine, add_places, add_report, check_numbers, given_options


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(
        description="Train ResNets from scratch on lists of labelled images.",
        epilog="an unfinished run goes on where it stopped; --fresh starts over.",
    )
    run = parser.add_argument_group("what to train")
    run.add_argument("--model", default="resnet18", choices=[*MODELS, "all"], help="all means 18, 50 and 152 in turn")
    add_places(run)
    add_report(run)
    run.add_argument(
        "--like", type=Path, help="repeat this run (a folder such as weights/all4/resnet18) with its settings"
    )
    run.add_argument("--fresh", action="store_true", help="start over; an earlier run of the same model is overwritten")
    trackers = ["tensorboard", "mlflow"]
    run.add_argument("--track", nargs="+", default=(), choices=trackers, help="follow the run there (default: nowhere)")

    images = parser.add_argument_group("images")
    images.add_argument("--size", type=int, help="side of the network input in px (default: 64 on the CPU, else 128)")
    images.add_argument(
        "--window", type=int, help="side of the square taken from the raw image, px (default: measured)"
    )
    images.add_argument(
        "--progressive",
        action=argparse.BooleanOptionalAction,
        help="half size for a third of the epochs, three quarters for the next (default: from ResNet50 on)",
    )

    images.add_argument(
        "--augmentation",
        default="geometry,colour",
        help="none, or some of d4, geometry (any angle, zoom, shift), colour, and mixup or cutmix (default: geometry,colour)",
    )

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=int, default=30, help="passes over the training list (default: 30)")
    recipe.add_argument("--batch-size", type=int, help="images per optimizer step (default: 32 on the CPU, else 64)")
    recipe.add_argument("--accumulate", type=int, default=1, help="split each batch into this many parts (default: 1)")
    recipe.add_argument(
        "--optimizer",
        choices=["sgd", "adamw"],
        default="sgd",
        help="sgd with Nesterov momentum 0.9, or adamw (default: sgd)",
    )
    recipe.add_argument("--lr", type=float, help="peak learning rate (default: 0.05 for sgd, 0.001 for adamw)")
    recipe.add_argument("--weight-decay", type=float, help="on weights only (default: 0.0005 for sgd, 0.05 for adamw)")
    recipe.add_argument("--warmup", type=float, default=1.0, help="epochs of linear warm-up (default: 1)")
    recipe.add_argument("--smoothing", type=float, default=0.1, help="label smoothing (default: 0.1)")
    recipe.add_argument(
        "--ema", type=float, default=0.99, help="decay of the averaged weights per step (default: 0.99)"
    )
    recipe.add_argument("--clip", type=float, default=5.0, help="limit of the gradient's norm, 0 for none (default: 5)")
    recipe.add_argument(
        "--class-weights",
        default="none",
        help="none, balanced, or K numbers such as 1.2,1, of which ratios count (default: none)",
    )
    recipe.add_argument(
        "--patience", type=int, default=0, help="stop after this many epochs without a new best (0: never)"
    )
    recipe.add_argument(
        "--zero-init",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="blocks start as the identity (default: yes)",
    )
    recipe.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")

    machine = parser.add_argument_group("machine")
    add_machine(machine)
    machine.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bits on a GPU every time, more slowly; the CPU always does",
    )
    machine.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile the training step (default: on a GPU where measured steps say that it pays)",
    )
    return parser


if __name__ == "__main__":
    answer(arguments())

import signal
import time
from contextlib import nullcontext
from itertools import chain

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import resnet
from dataloader import EVALUATION_BATCH, STORES, Batches, choose_preprocessing
from lab.checkpoints.checkpoint import (
    About,
    load_network,
    load_optimizer,
    load_strictly,
    optimizer_tensors,
    part,
    read_about,
    read_tensors,
    save_checkpoint,
)
from lab.checkpoints.ensembles import remove_members
from lab.checkpoints.histories import best_of, describe_best, epoch_line, write_history, write_run
from lab.cpu.winograd import use_fast_gradients
from lab.data.augmentation import parts_of
from lab.data.lists import DataSet, ImageList, list_digest, read_data_set, read_lists
from lab.data.preprocessing import channel_statistics
from lab.data.store import open_stores, warn_of_shared_images
from lab.distributed import Ranks, join
from lab.errors import UserError, out_of_memory, run
from lab.evaluation.inference import predict, score
from lab.figures.runs import draw_data_figures, redraw_accuracy
from lab.files import alone, check_writable
from lab.hardware import Hardware, choose_hardware
from lab.signals import Stop, Stopped
from lab.text import counted, duration
from lab.tracking import Tracking
from lab.training.compile import compiled, decide_compile
from lab.training.ema import EMA
from lab.training.forecast import forecast, measure_what_fits
from lab.training.provenance import compare, differences, make_record, read_run, take_over
from lab.training.recipe import chosen_settings, class_weights, divide, learning_rate, make_optimizer, size_at
from lab.training.resume import check_record, earlier_run, read_settings

SNAPSHOT = 600.0  # seconds between two last checkpoints within an epoch


def main() -> None:
    """Check everything, then train each model asked for."""
    args, given = arguments().parse_args(), given_options(arguments())
    ranks = join()
    like = read_run(args.like) if args.like else None
    if like is not None:
        given = take_over(like, args, given)
    check_numbers(args)
    tracking = Tracking(args.track if ranks.first else [], args.report)
    with ranks.first_before_others():
        try:
            data = read_data_set(args.data, args.root)
        except UserError as error:
            if like is None or "data" in given_options(arguments()):
                raise
            raise UserError(f"{error} Or name the lists of the run that is repeated, with --data and --root.") from None
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
    task = Task(args, given, like, data, lists, hardware, ranks, Stop(), tracking)
    with task.stop.listening(), tracking:
        for model in DEPTHS if args.model == "all" else [args.model]:
            with alone(args.weights / data.name / model, "training") if ranks.first else nullcontext():
                train_or_go_back(model, task)


@dataclass(frozen=True)
class Task:
    """What all runs of one command share."""

    args: argparse.Namespace
    given: dict[str, Any]
    like: About | None
    data: DataSet
    lists: dict[str, ImageList]
    hardware: Hardware
    ranks: Ranks
    stop: Stop
    tracking: Tracking


class Diverged(Exception):
    """The loss is no longer a finite number."""


def train_or_go_back(model: str, task: Task) -> None:
    """Train. A run whose loss is no longer a number goes back to its last checkpoint once, with half the learning rate; one for
    which the device has no longer the memory goes back with half as many images at once, and again."""
    last = task.args.weights / task.data.name / model / "last.safetensors"
    fresh, lr_factor, at_once = task.args.fresh, None, None
    while True:
        try:
            return train(model, task, fresh, lr_factor, at_once)
        except Diverged as error:
            problem = str(error)
        except (MemoryError, RuntimeError) as error:
            # Only a run under way has a last checkpoint of its own; and several processes would have to go back together.
            if not out_of_memory(error) or not task.stop.patient or task.ranks.count > 1:
                raise
            problem = ""
        # Outside the except block, which holds on to the networks of the attempt.
        about = read_about(last, model)
        fresh = False
        if not problem:
            at_once = divide(read_settings(last, about), task.ranks, len(task.lists["train"]), about.at_once)[0] // 2
            print(
                f"{model}: out of memory; going back to the last checkpoint, with {at_once} images at once", flush=True
            )
            continue
        if about.lr_factor < 1:
            raise UserError(
                f"{problem}, with half the learning rate too; its checkpoints are kept. Train it anew with --fresh and a "
                f"lower --lr."
            )
        lr_factor = 0.5
        print(f"{problem}; going back to the last checkpoint, once, with half the learning rate.", flush=True)


def train(model: str, task: Task, fresh: bool, lr_factor: float | None, at_once: int | None) -> None:
    """One run: one model on one data set, from its start or from its last checkpoint, from where on another ``lr_factor`` holds
    if given, and a pass takes no more than ``at_once`` images."""
    args, data, lists, hardware, ranks, stop = task.args, task.data, task.lists, task.hardware, task.ranks, task.stop
    stop.patient = False
    if stop.asked:
        raise Stopped(stop.asked)
    folder = args.weights / data.name / model
    best, last = folder / "best.safetensors", folder / "last.safetensors"
    history = args.report / data.name / f"history_{model}.csv"
    if (
        task.like is not None
        and not fresh
        and args.like.resolve() in (folder.resolve(), best.resolve(), last.resolve())
    ):
        raise UserError(
            f"--like {args.like}: is the run itself; give other --weights and --report to repeat it beside."
        )
    digest = list_digest(data)
    earlier = None if fresh else earlier_run(best, last, model, data, digest, task.given)
    saved = earlier[0] if earlier else None

    # ---- images
    if earlier is not None:
        saved, settings = earlier
        final = saved.preprocessing
        if saved.finished and "valid_accuracy_d4" in read_about(best, model).metrics:
            print(f"{model}: finished already, {describe_best(saved)}; --fresh trains it anew.")
            task.tracking.begin(saved, best)  # in case it was not followed, or not to the end
            task.tracking.end()
            return
    else:
        size = args.size or (64 if hardware.device.type == "cpu" else 128)
        print(f"size: {size} px, {'as asked' if args.size else f'the default on {hardware.device.type}'}")
        final = choose_preprocessing(lists["train"], size, args.window)
        settings = chosen_settings(model, args, hardware, final)
    if at_once is None and saved is not None:
        at_once = saved.at_once
    elif at_once is None and task.like is not None and task.like.settings == asdict(settings):
        at_once = task.like.at_once
    part_size, parts = divide(settings, ranks, len(lists["train"]), at_once)
    with ranks.first_before_others():
        if ranks.first:
            check_writable(best.parent)
            check_writable(history.parent)
        stores = open_stores(lists, final, STORES / data.name)
    warn_of_shared_images(stores)
    digests = chain.from_iterable(stores[name].list_digests() for name in ("train", "valid"))
    record = make_record(hardware, ranks.count, digests)
    if saved is not None:
        check_record(saved, record, last, data.folder)
    if task.like is not None and saved is None:
        compare(task.like, asdict(settings), digest, record, args.like)
    if saved is None:
        mean, std = channel_statistics(stores["train"].images)
        final = replace(final, mean=mean, std=std)
    batches = Batches(
        stores["train"],
        lists["train"].labels,
        final,
        part_size,
        hardware.device,
        settings.seed,
        ranks,
        settings.augmentation,
        len(data.classes),
    )
    valid = Batches(stores["valid"], lists["valid"].labels, final, EVALUATION_BATCH, hardware.device, None, ranks)

    # ---- network, optimizer, averaged weights
    torch.manual_seed(settings.seed)
    network = resnet.build(model, len(data.classes), zero_init_residual=settings.zero_init)
    hardware.place(network)
    use_fast_gradients(network, hardware)
    optimizer = make_optimizer(network, settings, hardware.precision)
    scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.precision == "fp16")
    ema = EMA(network, settings.ema)
    weight = class_weights(settings.class_weights, lists["train"].labels, len(data.classes), hardware.device)
    about = saved or About(model, data.classes, final, data.name, lists=digest)
    about.settings = asdict(settings)
    if not about.records or differences(about.records[-1], record):
        about.records.append(record)
    if saved is None:
        about.train_share = (
            np.bincount(lists["train"].labels, minlength=len(data.classes)) / len(lists["train"])
        ).tolist()
    if saved is not None:
        tensors = read_tensors(last)
        load_strictly(network, part(tensors, "train."), last)
        load_strictly(ema.network, part(tensors, "model."), last)
        load_optimizer(optimizer, tensors, last, begun=bool(saved.epoch or saved.step) and not saved.scaler)
        if saved.scaler:
            scaler.load_state_dict(saved.scaler)
        if ranks.first:
            write_history(history, saved.history)  # in case the run was killed between its checkpoint and these
            redraw_accuracy(history.parent, training=True)
        within = f" and {counted(saved.step, 'step')} of the next" if saved.step else ""
        so_far = f", {describe_best(saved)}" if saved.metrics else ""
        print(f"{model}: going on after epoch {saved.epoch} of {settings.epochs}{within}{so_far}.")
    else:
        if ranks.first:
            draw_data_figures(history.parent, lists["train"], data.classes, final, settings.seed, settings.augmentation)
        why = "as asked" if args.batch_size else f"the default on {hardware.device.type}"
        whole = part_size * parts * ranks.count
        print(f"batch: {whole} images per step, {why}; peak learning rate {settings.lr:g}")
    if not about.finished:
        accumulate, pace = measure_what_fits(network, settings, hardware, batches, valid, ranks, parts)
        about.at_once = batches.batch_size if accumulate > parts else at_once
        steps = len(batches) // accumulate
        count = sum(parameter.numel() for parameter in network.parameters())
        print(f"{model}: {count:,} parameters, {counted(settings.epochs, 'epoch')} of {counted(steps, 'step')}")
        print(forecast(pace, settings, about.epoch, about.step / steps), flush=True)
    parallel = forward = ranks.parallel(network, hardware.device)
    if not about.finished:
        before = about.records[-1].get("compile", "")
        compiles = decide_compile(
            args.compile, before, network, settings, hardware, batches, valid, pace, about.epoch, ranks
        )
        about.records[-1]["compile"] = "on" if compiles else "off"
        forward = compiled(parallel) if compiles else parallel

    # ---- what a run goes on from
    about.lr_factor = lr_factor or about.lr_factor
    # Loss and hits over the images of the epoch so far, of this rank; so precise that sums of float32 are exact, and the same
    # wherever a run was interrupted. (Apple's GPUs have no float64.)
    exact = torch.float32 if hardware.device.type == "mps" else torch.float64
    totals = torch.zeros(2, device=hardware.device, dtype=exact)
    began, due = time.perf_counter(), time.monotonic() + SNAPSHOT

    def sums() -> list[float]:
        """Loss and hits so far, of all ranks."""
        found: list[float] = ranks.sum(totals.clone()).tolist()
        if not math.isfinite(found[0]):
            raise Diverged(f"{model} epoch {about.epoch + 1}: the loss is no longer a finite number")
        return found

    def keep_last() -> None:
        """Write the last checkpoint."""
        nonlocal due
        averaged = {f"model.{name}": tensor for name, tensor in ema.network.state_dict().items()}
        raw = {f"train.{name}": tensor for name, tensor in network.state_dict().items()}
        about.scaler = scaler.state_dict()
        with ranks.first_before_others():
            if ranks.first:
                save_checkpoint(last, about, averaged | raw | optimizer_tensors(optimizer))
        due = time.monotonic() + SNAPSHOT

    def snapshot(done: int, seconds: float) -> None:
        """Keep the state within an epoch, after ``done`` of its steps."""
        about.loss_sum, about.correct = sums()
        tensors = [*network.state_dict().values(), *ema.network.state_dict().values()]
        if ranks.any(not all(bool(tensor.isfinite().all()) for tensor in tensors)):
            raise Diverged(f"{model} epoch {about.epoch + 1}: the weights are no longer finite numbers")
        about.step, about.seconds = done, seconds
        keep_last()

    def leave_if_asked() -> None:
        """Stop, on all ranks together."""
        if ranks.any(bool(stop.asked)):
            raise Stopped(stop.asked or signal.SIGTERM)

    if saved is None and ranks.first:
        remove_members(folder)
        task.tracking.forget(best)
    if saved is None or lr_factor is not None:
        keep_last()  # in place of an earlier run's, before anything of this one could be taken for it
    if ranks.first:
        write_run(history.with_name(f"run_{model}.json"), about)
    task.tracking.begin(about, best)

    # ---- the epochs
    for epoch in range(about.epoch, about.epoch if about.finished else settings.epochs):
        size = size_at(epoch, settings)
        batches.epoch, batches.size, valid.size = epoch, size, size
        batches.begin = about.step * accumulate  # 0, but where this epoch was interrupted
        totals[:] = torch.tensor([about.loss_sum, about.correct] if ranks.first else [0.0, 0.0], dtype=exact)
        began = time.perf_counter() - about.seconds
        network.train()
        stop.patient = True
        bar = tqdm(
            batches,
            f"{model} epoch {epoch + 1}/{settings.epochs}",
            initial=batches.begin,
            unit=" images",
            unit_scale=ranks.count * batches.batch_size,
            leave=False,
        )
        for number, (images, labels, _) in enumerate(bar, batches.begin):
            step = epoch * steps + number // accumulate
            if step >= (epoch + 1) * steps:
                break  # the parts left over do not fill a batch
            last_part = (number + 1) % accumulate == 0
            with ranks.local(parallel, not last_part):
                with hardware.autocast():
                    logits = forward(images)
                    # Not its mean, which divides by the weights of the part: parts would not add up to the batch.
                    total = functional.cross_entropy(
                        logits, labels, weight, label_smoothing=settings.smoothing, reduction="sum"
                    )
                    loss = total / len(labels)
                scaler.scale(loss / accumulate).backward()
            told = labels if labels.ndim == 1 else labels.argmax(dim=1)  # of a mixture the class with the most of it
            hits = (logits.detach().argmax(dim=1) == told).float().sum()
            # Loss and hits stay on the device: reading them here would make a GPU wait for Python.
            totals += torch.stack([total.detach(), hits])
            if not last_part:
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, settings) * about.lr_factor
            if settings.clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            ema.update(step)
            if ranks.any(bool(stop.asked) or time.monotonic() > due):
                snapshot(step + 1 - epoch * steps, time.perf_counter() - began)
                leave_if_asked()
        loss_sum, correct = sums()
        seen = ranks.count * steps * accumulate * batches.batch_size  # images
        trained = time.perf_counter() - began

        # ---- how good it is now, on the labelled list that the lab calls testing
        ranks.share_buffers(ema.network)
        try:
            stop.patient = ranks.count > 1  # several stop together, after the epoch
            probabilities = predict(ema.network, valid, hardware, title="testing", ranks=ranks)
        except Stopped:
            if ranks.count == 1:
                snapshot(steps, trained)
            raise
        stop.patient = True
        accuracy, test_loss = score(probabilities, lists["valid"].labels)
        if not math.isfinite(test_loss):
            raise Diverged(f"{model} epoch {epoch + 1}: the network's answers are no longer finite numbers")
        row = {
            "epoch": epoch + 1,
            "train_accuracy": correct / seen,
            "test_accuracy": accuracy,
            "train_loss": loss_sum / seen,
            "test_loss": test_loss,
            "learning_rate": learning_rate((epoch + 1) * steps - 1, steps, settings) * about.lr_factor,
            "size": size,
            "seconds": round(time.perf_counter() - began, 2),
            "images_per_second": round(seen / trained, 1),
        }
        about.history.append(row)
        about.epoch, about.step, about.loss_sum, about.correct, about.seconds = epoch + 1, 0, 0.0, 0.0, 0.0
        better = (accuracy, -test_loss) > best_of(about.metrics)
        if better:
            about.metrics = {"epoch": epoch + 1, "valid_accuracy": accuracy, "valid_loss": test_loss}
            about.metrics["valid_images"] = len(lists["valid"])
        stale = epoch + 1 - int(about.metrics["epoch"])
        stopping = bool(settings.patience) and stale >= settings.patience
        about.finished = stopping or epoch + 1 == settings.epochs

        # ---- keep it: best first, then last, so that a run killed between the two writes its best again
        if ranks.first and better:
            averaged = {f"model.{name}": tensor for name, tensor in ema.network.state_dict().items()}
            save_checkpoint(best, replace(about, preprocessing=replace(final, size=size)), averaged)
        keep_last()
        if ranks.first:
            write_history(history, about.history)
            redraw_accuracy(history.parent, training=True)
        task.tracking.epoch()
        left = pace.run(settings, epoch + 1) * row["seconds"] / pace.epoch(size)
        print(f"{epoch_line(model, row, about, settings.epochs)}, {duration(left)} left", flush=True)
        leave_if_asked()
        if stopping:
            print(f"{model}: stopped early, no new best for {stale} epochs (--patience {settings.patience}).")
            break
    stop.patient = False
    leave_if_asked()
    note_d4(best, about.history, valid, lists["valid"].labels, hardware, ranks)
    task.tracking.end()


def note_d4(
    path: Path, history: list[dict[str, float]], valid: Batches, labels: np.ndarray, hardware: Hardware, ranks: Ranks
) -> None:
    """Measure the best checkpoint with D4 test-time augmentation on valid, and note it there for predict.py to decide by; with
    the whole history, since the best checkpoint may be all that is handed on."""
    network, about = load_network(path, None, resnet.build)
    hardware.place(network)
    valid.size = about.preprocessing.size
    accuracy, loss = score(predict(network, valid, hardware, d4=True, title="testing with D4", ranks=ranks), labels)
    about.metrics |= {"valid_accuracy_d4": accuracy, "valid_loss_d4": loss}
    about.history = history
    if ranks.first:
        save_checkpoint(path, about, {f"model.{name}": tensor for name, tensor in network.state_dict().items()})
    print(f"{about.model}: {describe_best(about)}, {100 * accuracy:.2f} % averaged over D4; saved in {path}.")


if __name__ == "__main__":
    run(main)
