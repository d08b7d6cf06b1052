#!/usr/bin/env bash
# Evaluates DeepLabV3-ResNet18 on Cityscapes, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 75.60 mIoU on the test images, whose labels only the test server has
# (scripts/test_cityscapes.sh); this evaluates on the validation images.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3 \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_resnet18_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
