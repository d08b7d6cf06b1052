#!/usr/bin/env bash
# SegFormer-MiT-B4 on Cityscapes, the teacher. Published: 80.38 mIoU on the test images.
# Its training settings were not published; these are those of SegFormer-MiT-B0.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model segformer \
    --backbone MiT_B4 \
    --pretrained-base "$CKPT_ROOT/mit_b4.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --batch-size 8 \
    --crop-size 1024 1024 \
    --max-iterations 160000 \
    --optimizer-type adamw \
    --lr 0.0002 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --save-dir "$SAVE_ROOT" \
    "$@"
