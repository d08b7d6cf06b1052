#!/usr/bin/env bash
# Evaluates DeepLabV3-ResNet18 on ADE20K, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 39.82 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3 \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_resnet18_ade20k_best_model.pth" \
    --dataset ade20k \
    --data "$ADE20K_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
