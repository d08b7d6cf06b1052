#!/usr/bin/env bash
# Evaluates UPerNet-ResNet18 on ADE20K, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 36.87 mIoU.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model upernet_lite \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_upernet_lite_resnet18_ade20k_best_model.pth" \
    --dataset ade20k \
    --data "$ADE20K_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
