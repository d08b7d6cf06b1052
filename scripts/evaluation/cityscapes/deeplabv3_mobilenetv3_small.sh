#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileNetV3-Small on Cityscapes, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 67.62 mIoU on the test images, whose labels only the test server has
# (scripts/test_cityscapes.sh); this evaluates on the validation images.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_mobilenet_ssseg_mobilenetv3_small_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
