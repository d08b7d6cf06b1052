#!/usr/bin/env bash
# UPerNet-ResNet18 on Cityscapes, trained alone.
# Published: 68.90 mIoU on the test images, trained on 4 GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model upernet_lite \
    --backbone resnet18 \
    --pretrained-base "$CKPT_ROOT/resnet18-imagenet.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --batch-size 8 \
    --crop-size 512 1024 \
    --max-iterations 80000 \
    --optimizer-type sgd \
    --lr 0.01 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --save-dir "$SAVE_ROOT" \
    "$@"
