#!/usr/bin/env bash
# Looks into a data set and into its ResNet18, for docs/findings.md: report/<data>/explore_*, embed_* and explain_*.
# Usage: runs/studies.sh FOLDER DATA, where FOLDER holds the data set DATA (pbc8, all4 or cnmc52), after runs/DATA_resnet18.sh FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?name the folder that holds the data set}/${2:?name the data set: pbc8, all4 or cnmc52}"
options=(--data "$data")
[ "$2" = cnmc52 ] && options=(--data cnmc52 --root "$data")
[ "$2" = all4 ] && options+=(--no-images) # its images may not be shown
[ "$2" = cnmc52 ] && check=8 || check=50
.venv/bin/python -m studies.explore "${options[@]}"
for features in resnet18 efficientnet_lite0; do
    .venv/bin/python -m studies.embed "${options[@]}" --features "$features"
done
.venv/bin/python -m studies.explain "${options[@]}" --model resnet18 --check "$check"
