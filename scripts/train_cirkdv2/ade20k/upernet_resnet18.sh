#!/usr/bin/env bash
# UPerNet-ResNet18 on ADE20K, distilled from DeepLabV3-ResNet101 with CIRKDV2.
# Published: 36.87 mIoU on the validation images, trained on 8 GPUs.
# The published run related the images of one GPU to each other, 2 images a GPU: that is local:2.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_cirkdv2.py \
    --teacher-model deeplabv3 \
    --teacher-backbone resnet101 \
    --teacher-pretrained "$CKPT_ROOT/deeplabv3_resnet101_ade20k_best_model.pth" \
    --student-model upernet_lite \
    --student-backbone resnet18 \
    --student-pretrained-base "$CKPT_ROOT/resnet18-imagenet.pth" \
    --dataset ade20k \
    --data "$ADE20K_ROOT" \
    --batch-size 16 \
    --crop-size 512 512 \
    --max-iterations 80000 \
    --optimizer-type sgd \
    --lr 0.02 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --lambda-kd 1 \
    --lambda-fitnet 10 \
    --lambda-minibatch-pixel 1 \
    --lambda-memory-pixel 0.1 \
    --lambda-memory-region 0.1 \
    --lambda-minibatch-channel 1 \
    --lambda-memory-channel 0.1 \
    --lambda-channel-kd 100 \
    --minibatch-partners local:2 \
    --pixel-memory-size 20000 \
    --region-memory-size 2000 \
    --channel-memory-size 10000 \
    --pixel-contrast-size 4096 \
    --region-contrast-size 1024 \
    --channel-contrast-size 2048 \
    --save-dir "$SAVE_ROOT" \
    "$@"
