#!/usr/bin/env bash
# Evaluates PSPNet-MobileNetV3-Large on Pascal VOC, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 71.55 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model psp_mobile \
    --backbone mobilenetv3_large \
    --pretrained "$CKPT_ROOT/kd_psp_mobile_mobilenetv3_large_voc_best_model.pth" \
    --dataset voc \
    --data "$VOC_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
