#!/usr/bin/env bash
# Evaluates PSPNet-MobileNetV3-Small on COCO-Stuff-164K, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 28.28 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model psp_mobile \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_psp_mobile_mobilenetv3_small_coco_stuff_164k_best_model.pth" \
    --dataset coco_stuff_164k \
    --data "$COCO_STUFF_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
