#!/usr/bin/env bash
# UPerNet-ResNet18 on ADE20K, trained alone.
# Published: 34.37 mIoU on the validation images, trained on 4 GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model upernet_lite \
    --backbone resnet18 \
    --pretrained-base "$CKPT_ROOT/resnet18-imagenet.pth" \
    --dataset ade20k \
    --data "$ADE20K_ROOT" \
    --batch-size 16 \
    --crop-size 512 512 \
    --max-iterations 80000 \
    --optimizer-type sgd \
    --lr 0.02 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --save-dir "$SAVE_ROOT" \
    "$@"
