#!/usr/bin/env bash
# DeepLabV3-ResNet18 on Cityscapes, distilled from DeepLabV3-ResNet101 with NFD (Liu et al. 2022).
# Further flags are passed on and win, so any pair and data set can be trained: --student-model, --data, ...
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch train_kd.py \
    --teacher-model deeplabv3 \
    --teacher-backbone resnet101 \
    --teacher-pretrained "$CKPT_ROOT/deeplabv3_resnet101_citys_best_model.pth" \
    --student-model deeplabv3 \
    --student-backbone resnet18 \
    --student-pretrained-base "$CKPT_ROOT/resnet18-imagenet.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --batch-size 16 \
    --crop-size 512 1024 \
    --max-iterations 40000 \
    --optimizer-type sgd \
    --lr 0.02 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --method nfd \
    --lambda-kd 1 \
    --lambda-nfd 4 \
    --save-dir "$SAVE_ROOT" \
    "$@"
