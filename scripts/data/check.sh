#!/usr/bin/env bash
# Checks a data set: counts against the published ones, labels, sizes, files that cannot be used.
#   bash scripts/data/check.sh camvid /data/CamVid [--split train val] [--json report.json] [--workers 8] [--sample 200]
# Exit code: 0 nothing is wrong, 1 something is, 2 the check could not be made.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

ensure_venv
PYTHONPATH="$PROJECT_ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$VENV/bin/python" -P -m dataset.check "$@"
