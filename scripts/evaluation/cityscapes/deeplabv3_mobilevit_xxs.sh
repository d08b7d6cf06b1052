#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileViT-XXS on Cityscapes, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 68.91 mIoU on the test images, whose labels only the test server has
# (scripts/test_cityscapes.sh); this evaluates on the validation images.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplab_mobile \
    --backbone mobilevit_xx_small \
    --pretrained "$CKPT_ROOT/kd_deeplab_mobile_mobilevit_xx_small_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split val \
    --save-dir "$SAVE_ROOT" \
    "$@"
