#!/usr/bin/env bash
# 52 originals of C-NMC, ResNet18 at 64 px: 100.00 % of eight valid images, 1 minute on two cores with AVX2. A smoke test, no more.
# Usage: runs/cnmc52_resnet18.sh FOLDER, the folder that holds cnmc52/ with the images.
set -euo pipefail
cd "$(dirname "$0")/.."
images="${1:?name the folder that holds cnmc52/}/cnmc52"
test -f csv/cnmc52/train.csv || .venv/bin/python prepare.py cnmc "$images" --name cnmc52
.venv/bin/python train.py --data cnmc52 --root "$images" --model resnet18 --epochs 40 --batch-size 8
.venv/bin/python evaluate.py --data cnmc52 --root "$images" --model resnet18
.venv/bin/python predict.py --data cnmc52 --root "$images" --model resnet18
