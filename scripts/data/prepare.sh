#!/usr/bin/env bash
# Makes a decoded, memory-mapped copy of a data set, which training and evaluation read as --data OUT. Says the size
# first; a run that was stopped goes on where it was.
#   bash scripts/data/prepare.sh citys /data/cityscapes /fast/cityscapes [--split train val test] [--workers 8]
#   bash scripts/data/prepare.sh citys /data/cityscapes /fast/cityscapes --verify
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

ensure_venv
PYTHONPATH="$PROJECT_ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$VENV/bin/python" -P -m dataset.prepare "$@"
