"""Average the predictions of several seeds of one model: writes a folder with their best checkpoints.

    python train.py --model resnet18 --data csv/sample --seed 0 --weights weights-0 --report report-0
    python train.py --model resnet18 --data csv/sample --seed 1 --weights weights-1 --report report-1
    python -m studies.average weights-0/sample/resnet18 weights-1/sample/resnet18 --out weights-average/sample/resnet18
    python predict.py --model resnet18 --data csv/sample --weights weights-average

evaluate.py, predict.py and demo.py use the folder like that of a training. The average is measured on valid.csv without and with
D4, which decides whether they use D4. Without the lists, the majority of the members decides.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.options import add_machine, add_quiet, parse


def arguments() -> argparse.ArgumentParser:
    """The options, each with its one default."""
    parser = argparse.ArgumentParser(description="Average the class probabilities of several seeds of one depth.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="weights/<data>/<model> of each seed")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which also ends in <data>/<model>")
    parser.add_argument("--data", help="lists to measure it on (default: the members' lists below csv/)")
    parser.add_argument("--root", help="folder that the paths of the lists start from (default: the lists' own folder)")
    parser.add_argument("--fresh", action="store_true", help="replace an average that is there")
    add_machine(parser)
    add_quiet(parser)
    return parser


def check_paths(args: argparse.Namespace) -> None:
    """Report a wrong path before torch is imported."""
    from lab.checkpoints.headers import read_header
    from lab.data.lists import find_folder

    for folder in args.folders:
        read_header(folder / "best.safetensors")
    if args.data:
        find_folder(args.data, args.root, ["valid"])


ARGS = parse(arguments, __name__, check_paths)

import shlex
import shutil
from dataclasses import replace

from lab.checkpoints.checkpoint import About, check_classes, load_network, read_about, save_checkpoint
from lab.checkpoints.ensembles import Member, check_alike, other, others
from lab.checkpoints.histories import best_of
from lab.data.batches import stored_batches
from lab.data.lists import list_digest, read_data_set, read_list
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError, run
from lab.evaluation.confidence import fit_confidence
from lab.evaluation.inference import Feed, decide_d4, predict_members, score
from lab.files import alone, replacing
from lab.hardware import Hardware, choose_hardware
from lab.text import percent


def main(args: argparse.Namespace) -> None:
    """Check that the networks can be averaged, measure the average, and write it."""
    if len(args.folders) < 2 or len({folder.resolve() for folder in args.folders}) < len(args.folders):
        raise UserError("name two folders or more, each once: the average of one network is that network.")
    paths = [folder / "best.safetensors" for folder in args.folders]
    abouts = [read_about(path) for path in paths]
    for path, about in zip(paths, abouts, strict=True):
        if about.members > 1:
            raise UserError(f"{path}: expected a single training's network, found an average of {about.members}.")
    check_alike(paths, abouts)
    for index, about in enumerate(abouts):
        before = [path for path, one in zip(paths, abouts[:index], strict=False) if one.settings == about.settings]
        if before and about.settings:
            raise UserError(f"{paths[index]}: the same seed and settings as {before[0]}; average other seeds.")
    # The best on valid is the first. Sorting is stable.
    paths.sort(key=lambda path: best_of(read_about(path)), reverse=True)
    members = [load_network(path) for path in paths]
    model = members[0][1].model
    if args.out.name != model:
        raise UserError(f"--out {args.out}: expected a folder named {model}, where predict.py looks for it.")
    check_free(args.out, args.fresh)
    with alone(args.out, "working"):
        hardware = choose_hardware(args.device, args.precision)
        for path, (network, about) in zip(paths, members, strict=True):
            hardware.place(network)
            print(f"{path}: {result(about)}")
        metrics, confidence = measure(members, args, hardware)
        about = replace(members[0][1], members=len(members), metrics=metrics, confidence=confidence)
        decide_d4(about, "auto")
        write(args.out, paths, members, about)
    weights = ["--weights", str(args.out.parent.parent)]
    data = args.data or args.out.parent.name
    print(f"wrote {args.out}: the average of {len(members)} members")
    print(f"next: {shlex.join(['python', 'predict.py', '--model', model, '--data', data, *weights])}")


def result(about: About) -> str:
    """A member's accuracy on valid, in a message."""
    if "valid_accuracy_d4" not in about.metrics:
        return "its run has not finished; averaged as it is now"
    plain, d4 = about.metrics["valid_accuracy"], about.metrics["valid_accuracy_d4"]
    return f"{percent(plain)} on valid, {percent(d4)} with D4"


def check_free(out: Path, fresh: bool) -> None:
    """Raise :class:`UserError` if ``out`` contains a training, or another average unless ``fresh``."""
    best = out / "best.safetensors"
    if (out / "last.safetensors").exists() or (best.is_file() and read_about(best).members == 1):
        raise UserError(f"--out {out}: contains a training; choose another folder for the average.")
    if (best.exists() or others(out)) and not fresh:
        raise UserError(f"--out {out}: contains an average already; --fresh replaces it.")


def measure(
    members: list[Member], args: argparse.Namespace, hardware: Hardware
) -> tuple[dict[str, float], dict[str, float]]:
    """The average's accuracy and loss on valid without and with D4, and how far to trust its predictions. Without the lists: the
    number of members whose own accuracy improved with D4, and only the first member's distance of unlike images. Raises
    :class:`UserError` if the lists of ``--data`` are missing."""
    about = members[0][1]
    unlike = {name: value for name, value in about.confidence.items() if name == "unlike"}
    try:
        data = read_data_set(args.data or about.data, args.root)
        check_classes(args.folders[0] / "best.safetensors", about, data.classes)
        valid = read_list(data, "valid", labelled=True)
        if about.lists not in ("", list_digest(data)):
            raise UserError(f"{data.folder}: these are not the lists that the members were trained on.")
    except (UserError, OSError) as error:
        if args.data:
            raise
        print(f"average: not measured on valid, since {str(error).splitlines()[0]}")
        return {"d4_votes": sum(decide_d4(member, "auto", quiet=True) for _, member in members)}, unlike

    def feed(preprocessing: Preprocessing) -> Feed:
        return stored_batches(data.name, "valid", valid, preprocessing, hardware.device)

    metrics: dict[str, float] = {"valid_images": len(valid)}
    rows = [predict_members(members, feed, hardware, d4, "validating") for d4 in (False, True)]
    for d4, ending in ((False, ""), (True, "_d4")):
        accuracy, loss = score(rows[d4], valid.labels)
        metrics |= {f"valid_accuracy{ending}": accuracy, f"valid_loss{ending}": loss}
        print(f"average{' with D4' if d4 else ''}: {percent(accuracy)} on valid, loss {loss:.4f}")
    return metrics, fit_confidence(valid.labels, *rows) | unlike


def write(out: Path, paths: list[Path], members: list[Member], about: About) -> None:
    """Write the members, best last, because no command uses a folder without it."""
    (out / "best.safetensors").unlink(missing_ok=True)
    for old in others(out):
        old.unlink()
    for number, path in enumerate(paths[1:], 2):
        with replacing(other(out, number)) as temporary:
            shutil.copyfile(path, temporary)
    tensors = {f"model.{name}": tensor for name, tensor in members[0][0].state_dict().items()}
    save_checkpoint(out / "best.safetensors", about, tensors)


if __name__ == "__main__":
    run(main, ARGS)
