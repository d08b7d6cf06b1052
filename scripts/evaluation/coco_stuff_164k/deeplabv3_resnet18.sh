#!/usr/bin/env bash
# Evaluates DeepLabV3-ResNet18 on COCO-Stuff-164K, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 34.42 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3 \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_resnet18_coco_stuff_164k_best_model.pth" \
    --dataset coco_stuff_164k \
    --data "$COCO_STUFF_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
