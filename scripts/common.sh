# Sourced by every script: where the project lies, and a Python with the requirements installed.
# shellcheck shell=bash

set -euo pipefail

PROJECT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$PROJECT_ROOT/.venv"
NEEDED_DISK_MIB=8000

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python of version 3.11 or newer found. Install one, or name it: PYTHON=/path/to/python3 bash $0"
}

# Makes .venv with the requirements, once; a changed requirements.txt installs again.
ensure_venv() {
    local stamp="$VENV/.installed-requirements" requirements="$PROJECT_ROOT/requirements.txt" python free
    if [ -x "$VENV/bin/python" ] && cmp -s "$requirements" "$stamp" && "$VENV/bin/python" -c '' 2>/dev/null; then
        return
    fi
    python="$(find_python)"
    free="$(free_mib "$PROJECT_ROOT")"
    if [ "$free" -lt "$NEEDED_DISK_MIB" ]; then
        fail "installing the requirements takes about $NEEDED_DISK_MIB MiB in $PROJECT_ROOT, and $free MiB are free."
    fi
    say "Installing the requirements into $VENV (a few minutes, once) ..."
    "$python" -m venv "$VENV" || fail "$python cannot make a virtual environment; on Debian: apt install python3-venv"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
        fail "the requirements could not be installed; see pip's message above. Run the same command again to go on."
    cp "$requirements" "$stamp"
}
