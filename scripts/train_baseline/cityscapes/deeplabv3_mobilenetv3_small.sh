#!/usr/bin/env bash
# DeepLabV3-MobileNetV3-Small on Cityscapes, trained alone.
# Published: 65.05 mIoU on the test images, trained on 4 GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_small \
    --pretrained-base "$CKPT_ROOT/mobilenet_v3_small-47085aa1.pth" \
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
