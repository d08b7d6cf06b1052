#!/usr/bin/env bash
# Evaluates PSPNet-MobileNetV3-Small on CamVid, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# No checkpoint was released: copy your own to CKPT_ROOT, or name it.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model psp_mobile \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_psp_mobile_mobilenetv3_small_camvid_best_model.pth" \
    --dataset camvid \
    --data "$CAMVID_ROOT" \
    --split test \
    --save-dir "$SAVE_ROOT" \
    "$@"
