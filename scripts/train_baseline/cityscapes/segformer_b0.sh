#!/usr/bin/env bash
# SegFormer-MiT-B0 on Cityscapes, trained alone.
# Published: 74.12 mIoU on the test images, trained on 8 GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model segformer \
    --backbone MiT_B0 \
    --pretrained-base "$CKPT_ROOT/mit_b0.pth" \
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
