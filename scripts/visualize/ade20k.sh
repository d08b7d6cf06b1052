#!/usr/bin/env bash
# Pictures of the ADE20K validation images: masks in the official colours, blends, panels.
# PSPNet-MobileNetV3-Large distilled with CIRKDV2; --pretrained PATH with --model and --backbone shows another.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch eval.py \
    --model psp_mobile \
    --backbone mobilenetv3_large \
    --pretrained "$CKPT_ROOT/kd_psp_mobile_mobilenetv3_large_ade20k_best_model.pth" \
    --dataset ade20k \
    --data "$ADE20K_ROOT" \
    --split val \
    --save-pred \
    --blend \
    --panel \
    --save-dir "$SAVE_ROOT" \
    "$@"
