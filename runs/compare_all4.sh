#!/usr/bin/env bash
# All systems on ALL, side by side: report/all4/compare.md. Hours on a CPU; a training that has finished is not repeated.
# Usage: runs/compare_all4.sh FOLDER, the folder that holds all4/ with its lists and images.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?name the folder that holds all4/}/all4"
model() { # trains, evaluates and predicts one model
    .venv/bin/python train.py --data "$data" --size 64 "$@"
    .venv/bin/python evaluate.py --data "$data" --model "$2"
    .venv/bin/python predict.py --data "$data" --model "$2"
}
for depth in 18 50 152; do
    "runs/all4_resnet$depth.sh" "$1"
done
model --model cnn6 --progressive --epochs 30
model --model cnn_light --epochs 40
model --model fc --epochs 30
model --model alexnet --epochs 30
model --model cnn4 --progressive --epochs 24
model --model vgg16 --size 48 --progressive --epochs 20
model --model vit_tiny --size 48 --epochs 40
.venv/bin/python -m studies.pretrained --data "$data" --size 128 --mode tuned --epochs 8
.venv/bin/python -m studies.pretrained --data "$data" --size 128 --mode frozen
for features in hog resnet18; do
    .venv/bin/python -m studies.heads --data "$data" --features "$features"
done
.venv/bin/python -m studies.heads --data "$data" --features efficientnet_lite0 --size 128
.venv/bin/python -m studies.compare --data "$data"
.venv/bin/python -m studies.mistakes --data "$data" --no-images --systems resnet18 resnet50 resnet152 cnn_light efficientnet_lite0_tuned
