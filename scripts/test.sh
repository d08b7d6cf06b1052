#!/usr/bin/env bash
# Installs if need be, then style and tests but for the slow ones. Arguments are passed on to pytest:
#   bash scripts/test.sh -k relation
#   bash scripts/test.sh -m slow
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ensure_venv
cd "$PROJECT_ROOT"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .

# One thread a process: the test processes share the cores.
export OMP_NUM_THREADS=1
exec "$VENV/bin/python" -m pytest --numprocesses auto --dist worksteal -m "not slow" "$@"
