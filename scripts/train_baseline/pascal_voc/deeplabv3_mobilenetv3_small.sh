#!/usr/bin/env bash
# DeepLabV3-MobileNetV3-Small on Pascal VOC, trained alone.
# Published: 62.45 mIoU on the validation images, trained on 4 GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_small \
    --pretrained-base "$CKPT_ROOT/mobilenet_v3_small-47085aa1.pth" \
    --dataset voc \
    --data "$VOC_ROOT" \
    --batch-size 16 \
    --crop-size 512 512 \
    --max-iterations 80000 \
    --optimizer-type sgd \
    --lr 0.02 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --save-dir "$SAVE_ROOT" \
    "$@"
