#!/usr/bin/env bash
# SegFormer-MiT-B0 on Cityscapes, distilled from SegFormer-MiT-B4 with CIRKDV2.
# Published: 75.52 mIoU on the test images, trained on 8 GPUs.
# The published run related the images of one GPU to each other, 1 image a GPU: that is local:1.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_cirkdv2.py \
    --teacher-model segformer \
    --teacher-backbone MiT_B4 \
    --teacher-pretrained "$CKPT_ROOT/segformer_MiT_B4_citys_best_model.pth" \
    --student-model segformer \
    --student-backbone MiT_B0 \
    --student-pretrained-base "$CKPT_ROOT/mit_b0.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --batch-size 8 \
    --crop-size 1024 1024 \
    --max-iterations 160000 \
    --optimizer-type adamw \
    --lr 0.0002 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --lambda-kd 1 \
    --lambda-fitnet 1 \
    --lambda-minibatch-pixel 1 \
    --lambda-memory-pixel 0.1 \
    --lambda-memory-region 0.1 \
    --lambda-minibatch-channel 1 \
    --lambda-memory-channel 0.1 \
    --lambda-channel-kd 100 \
    --minibatch-partners local:1 \
    --pixel-memory-size 2000 \
    --region-memory-size 2000 \
    --channel-memory-size 10000 \
    --pixel-contrast-size 4096 \
    --region-contrast-size 1024 \
    --channel-contrast-size 2048 \
    --save-dir "$SAVE_ROOT" \
    "$@"
