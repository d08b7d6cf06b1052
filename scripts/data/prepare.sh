#!/usr/bin/env bash
# Builds the decoded, memory-mapped cache of a data set, which training and evaluation read as --data OUT. Prints the
# size first; an interrupted run is continued by the same command.
#   bash scripts/data/prepare.sh citys /data/cityscapes /fast/cityscapes [--split train val test] [--workers 8]
#   bash scripts/data/prepare.sh citys /data/cityscapes /fast/cityscapes --verify
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

ensure_venv
PYTHONPATH="$PROJECT_ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$VENV/bin/python" -P -m dataset.prepare "$@"
