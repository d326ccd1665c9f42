#!/usr/bin/env bash
# All systems on PBC, side by side: report/pbc8/compare.md. Hours on a CPU; a training that has finished is not repeated.
# Usage: runs/compare_pbc8.sh FOLDER, the folder that holds pbc8/ with its lists and images.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?name the folder that holds pbc8/}/pbc8"
model() { # trains, evaluates and predicts one model
    .venv/bin/python train.py --data "$data" --size 64 "$@"
    .venv/bin/python evaluate.py --data "$data" --model "$2"
    .venv/bin/python predict.py --data "$data" --model "$2"
}
for depth in 18 50 152; do
    "runs/pbc8_resnet$depth.sh" "$1"
done
model --model cnn6 --progressive --epochs 15
model --model cnn_light --epochs 20
model --model fc --epochs 15
model --model alexnet --epochs 15
model --model cnn4 --progressive --epochs 12
model --model vgg16 --size 48 --progressive --epochs 12
model --model vit_tiny --size 48 --epochs 16
.venv/bin/python -m studies.pretrained --data "$data" --size 128 --mode tuned --epochs 8
.venv/bin/python -m studies.pretrained --data "$data" --size 128 --mode frozen
for features in hog resnet18; do
    .venv/bin/python -m studies.heads --data "$data" --features "$features"
done
.venv/bin/python -m studies.heads --data "$data" --features efficientnet_lite0 --size 128
.venv/bin/python -m studies.compare --data "$data"
.venv/bin/python -m studies.mistakes --data "$data" --systems resnet18 resnet50 resnet152 cnn6 vgg16 efficientnet_lite0_tuned
