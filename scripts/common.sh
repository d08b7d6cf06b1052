# Sourced by every script: where the project lies, and a Python with the requirements installed.
# shellcheck shell=bash

set -euo pipefail

PROJECT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$PROJECT_ROOT/.venv"
NEEDED_DISK_MIB=8000
# What torchrun passes on to the training processes; SIGUSR1 is SLURM's word that the time is nearly over.
SIGNALS=--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -z "$candidate" ] || ! command -v "$candidate" >/dev/null 2>&1; then continue; fi
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

# --- What the recipes share -------------------------------------------------------------------------------------------

# Where data, published files and runs lie; each can be set in the environment, the data sets' roots one by one.
DATA_ROOT="${DATA_ROOT:-$PROJECT_ROOT/data}"
CITYS_ROOT="${CITYS_ROOT:-$DATA_ROOT/cityscapes}"
VOC_ROOT="${VOC_ROOT:-$DATA_ROOT/VOCAug}"
CAMVID_ROOT="${CAMVID_ROOT:-$DATA_ROOT/CamVid}"
ADE20K_ROOT="${ADE20K_ROOT:-$DATA_ROOT/ADEChallengeData2016}"
COCO_STUFF_ROOT="${COCO_STUFF_ROOT:-$DATA_ROOT/coco_stuff_164k}"
CKPT_ROOT="${CKPT_ROOT:-$PROJECT_ROOT/checkpoints}"
SAVE_ROOT="${SAVE_ROOT:-$PROJECT_ROOT/runs}"

# The Python that runs the recipes: $PYTHON, else .venv, else that of an active environment, else .venv is made.
recipe_python() {
    if [ -n "${PYTHON:-}" ]; then
        printf '%s' "$PYTHON"
    elif [ -x "$VENV/bin/python" ] || [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        printf '%s' "$VENV/bin/python"
    else
        printf 'python'
    fi
}

# GPUs of this machine that the recipe may use; none is 0.
count_gpus() {
    local visible="${CUDA_VISIBLE_DEVICES-all}"
    if [ "$visible" = all ]; then
        if command -v nvidia-smi >/dev/null 2>&1; then
            nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true
        fi
    elif [ -z "$visible" ] || [ "$visible" = -1 ]; then
        echo 0
    else
        awk -F, '{ print NF }' <<<"$visible"
    fi
}

# The value that counts of a flag among the words: the last one, also as --flag=value and with underscores.
last_value() {
    local wanted="$1" value="" word name
    shift
    while [ $# -gt 0 ]; do
        word="$1"
        shift
        case "$word" in
        --*) name="${word%%=*}" && name="${name//_/-}" ;;
        *) continue ;;
        esac
        [ "$name" = "$wanted" ] || continue
        case "$word" in
        *=*) value="${word#*=}" ;;
        *) value="${1:-}" ;;
        esac
    done
    printf '%s' "$value"
}

# Says which folder or file a recipe lacks, and where it is looked for, before any Python starts.
check_inputs() {
    local flag value
    value="$(last_value --data "$@")"
    if [ -n "$value" ] && [ ! -d "$value" ]; then
        fail "the data set's folder $value does not exist. Set DATA_ROOT (it holds cityscapes, VOCAug, CamVid," \
            "ADEChallengeData2016, coco_stuff_164k), or CITYS_ROOT, VOC_ROOT, CAMVID_ROOT, ADE20K_ROOT or" \
            "COCO_STUFF_ROOT, or pass --data FOLDER."
    fi
    for flag in --pretrained-base --pretrained --teacher-pretrained --student-pretrained-base --student-pretrained; do
        value="$(last_value "$flag" "$@")"
        case "$value" in
        '' | None | none | timm | timm:* | torchvision:*) continue ;;
        esac
        [ -e "$value" ] || fail "$flag: there is no $value. CKPT_ROOT is the folder of published and own" \
            "checkpoints (docs/results.md has the links); $flag PATH names another file."
    done
}

# The global batch is the recipe's for any number of processes, so these have to divide it.
check_batch() {
    local processes="$1" batch steps candidate good=""
    shift
    batch="$(last_value --batch-size "$@")"
    steps="$(last_value --accumulation-steps "$@")"
    # In $((...)) bash runs commands that stand in a word; what is no number, the parser refuses.
    case "$batch$steps" in *[!0-9]*) return ;; esac
    batch=$((10#${batch:-0}))
    steps=$((10#${steps:-1}))
    if [ "$batch" -eq 0 ] || [ "$steps" -eq 0 ] || [ $((batch % (processes * steps))) -eq 0 ]; then return; fi
    for ((candidate = 1; candidate <= batch; candidate++)); do
        if [ $((batch % (candidate * NNODES * steps))) -eq 0 ]; then good="$good $candidate"; fi
    done
    fail "a batch of $batch does not divide over NPROC=$NPROC processes on $NNODES machine(s)" \
        "with $steps accumulation step(s); NPROC that do:${good:- none}"
}

# Where several machines take part: NNODES, NODE_RANK and MASTER_ADDR, from SLURM where it started this.
find_machines() {
    NNODES="${NNODES:-${SLURM_NNODES:-1}}"
    NODE_RANK="${NODE_RANK:-${SLURM_NODEID:-0}}"
    MASTER_PORT="${MASTER_PORT:-29500}"
    case "$NNODES" in
    '' | *[!0-9]* | 0*) fail "NNODES is '$NNODES'; expected a number of machines of at least 1" ;;
    esac
    [ "$NNODES" -gt 1 ] || return 0
    if [ -z "${MASTER_ADDR:-}" ] && [ -n "${SLURM_JOB_NODELIST:-}" ] && command -v scontrol >/dev/null 2>&1; then
        MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
        MASTER_ADDR="${MASTER_ADDR%%$'\n'*}" # not by `head`, under which scontrol may die of SIGPIPE
    fi
    [ -n "${MASTER_ADDR:-}" ] || fail "NNODES=$NNODES machines need MASTER_ADDR, the name or address of the first one."
}

# Starts an entry point with its flags: launch train_cirkdv2.py --flag value ... "$@"
#   NPROC     processes on this machine: all GPUs by default, 1 where there is none
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   several machines; SLURM's variables are understood
#   DRY_RUN=1 prints the command and ends
launch() {
    local program="$1" python gpus
    shift
    gpus="$(count_gpus)"
    NPROC="${NPROC:-$((gpus > 0 ? gpus : 1))}"
    case "$NPROC" in
    '' | *[!0-9]* | 0*) fail "NPROC is '$NPROC'; expected a number of processes of at least 1" ;;
    esac
    find_machines
    check_batch $((NPROC * NNODES)) "$@"
    python="$(recipe_python)"
    local command=("$python")
    if [ "$NNODES" -gt 1 ]; then
        command+=(-m torch.distributed.run "--nproc-per-node=$NPROC" "--nnodes=$NNODES" "--node-rank=$NODE_RANK"
            "--master-addr=$MASTER_ADDR" "--master-port=$MASTER_PORT" "$SIGNALS")
    elif [ "$NPROC" -gt 1 ]; then
        command+=(-m torch.distributed.run --standalone "--nproc-per-node=$NPROC" "$SIGNALS") # takes a free port
    fi
    command+=("$PROJECT_ROOT/$program" "$@")
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "${command[@]}"
        printf '\n'
        return
    fi
    check_inputs "$@"
    [ "$python" != "$VENV/bin/python" ] || ensure_venv
    exec "${command[@]}"
}
