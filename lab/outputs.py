"""Lists the files that the commands have written for a data set, and what to type next: ``python -m lab.outputs csv/sample``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.data.lists import data_name

FILES = [
    ("csv/{data}/train.csv", "the lab's lists, with valid.csv and three test lists in the same folder"),
    ("weights/{data}/*/best.safetensors", "the network to hand in, with the best valid accuracy"),
    ("weights/{data}/*/last.safetensors", "the state to resume from"),
    ("csv/{data}/submission_*.csv", "the Kaggle submission of a model"),
    ("csv/{data}/confidence_*.csv", "which of its predictions are certain"),
    ("csv/{data}/submission_*.json", "the weights that it was predicted with"),
    ("report/{data}/accuracy_comparison.png", "accuracy per epoch, training and testing"),
    ("report/{data}/confusion_*.png", "confusion matrix of a model, as counts and as row percentages"),
    ("report/{data}/roc.png", "ROC curves"),
    ("report/{data}/risk_coverage.png", "errors among the most confident predictions"),
    ("report/{data}/metrics.csv", "accuracy with its interval, precision, recall, AUC, McNemar"),
    ("report/{data}/history_*.csv", "one row per epoch"),
    ("report/{data}/log_*.txt", "what a training printed"),
    ("report/{data}/run_*.json", "settings, versions, device and image hashes of a run"),
    ("report/{data}/valid_*.csv", "the prediction for each valid image"),
    ("report/{data}/valid_*.json", "the weights that they were predicted with"),
    ("report/{data}/rates_*.html", "true- and false-positive rate of a classical head over the threshold, interactive"),
    ("report/{data}/preprocessing.png", "raw image, mask, window and network input"),
    ("report/{data}/augmentation.png", "augmented views"),
    ("report/{data}/demo.png", "the demo's figure"),
    ("report/{data}/report.*", "the report, as PDF and as HTML"),
]


def table(data: str) -> str:
    """One line per existing file: path, size in KiB, content."""
    files = [(path, content) for pattern, content in FILES for path in sorted(Path().glob(pattern.format(data=data)))]
    if data == "lab3":  # its lists may be directly in csv/
        files += [(path, "submission or list") for path in sorted(Path("csv").glob("*.csv"))]
    width = max((len(str(path)) for path, _ in files), default=0)
    lines = [f"{path!s:<{width}}  {path.stat().st_size / 1024:>9,.0f} KiB  {content}" for path, content in files]
    return "\n".join(lines) if lines else f"nothing written for {data} yet"


def next_steps(data: str) -> str:
    """The commands to type after the demo, with an image of the test list."""
    image = next(iter(sorted(Path("csv", data, "test").glob("*.*"))), "IMAGE")
    return f"""What to type next:
  source .venv/bin/activate
  python demo.py --data {data} {image}     # predicts an image with each network
  python demo.py --data {data} --serve     # the results as a page in the browser
  python train.py --model all --root FOLDER     # trains on your lists in csv/, with the images below FOLDER"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="List what was written for a data set.")
    parser.add_argument("data", help="folder of lists, or its name below csv/")
    name = data_name(parser.parse_args().data)
    print(f"{table(name)}\n\n{next_steps(name)}")
