#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileNetV3-Large on COCO-Stuff-164K, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 32.14 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_large \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_mobilenet_ssseg_mobilenetv3_large_coco_stuff_164k_best_model.pth" \
    --dataset coco_stuff_164k \
    --data "$COCO_STUFF_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
