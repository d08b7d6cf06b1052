#!/usr/bin/env bash
# Evaluates UPerNet-ResNet18 on Cityscapes, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 72.11 mIoU on the test images, whose labels only the test server has
# (scripts/test_cityscapes.sh); this evaluates on the validation images.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model upernet_lite \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_upernet_lite_resnet18_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
