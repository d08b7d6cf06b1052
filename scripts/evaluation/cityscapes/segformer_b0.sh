#!/usr/bin/env bash
# Evaluates SegFormer-MiT-B0 on Cityscapes, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# Published: 75.52 mIoU on the test images, whose labels only the test server has
# (scripts/test_cityscapes.sh); this evaluates on the validation images.
# Each image in two halves, as published.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model segformer \
    --backbone MiT_B0 \
    --pretrained "$CKPT_ROOT/kd_segformer_MiT_B4_segformer_MiT_B0_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split val \
    --slide-crop 1024 1024 \
    --slide-stride 1024 1024 \
    --save-dir "$SAVE_ROOT" \
    "$@"
