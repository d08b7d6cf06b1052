#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileNetV3-Large on Pascal VOC, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 71.90 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_large \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_mobilenet_ssseg_mobilenetv3_large_voc_best_model.pth" \
    --dataset voc \
    --data "$VOC_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
