#!/usr/bin/env bash
# DeepLabV3-ResNet101 on Pascal VOC, the teacher. Published: 77.80 mIoU on the validation images.
# Its training settings were not published; these are those of the data set's CNN students.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model deeplabv3 \
    --backbone resnet101 \
    --pretrained-base "$CKPT_ROOT/resnet101-imagenet.pth" \
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
