#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileNetV3-Large on ADE20K, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 36.14 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_large \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_mobilenet_ssseg_mobilenetv3_large_ade20k_best_model.pth" \
    --dataset ade20k \
    --data "$ADE20K_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
