#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileNetV3-Small on Pascal VOC, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 64.67 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_mobilenet_ssseg_mobilenetv3_small_voc_best_model.pth" \
    --dataset voc \
    --data "$VOC_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
