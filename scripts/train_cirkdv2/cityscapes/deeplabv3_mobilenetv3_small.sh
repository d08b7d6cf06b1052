#!/usr/bin/env bash
# DeepLabV3-MobileNetV3-Small on Cityscapes, distilled from DeepLabV3-ResNet101 with CIRKDV2.
# Published: 67.62 mIoU on the test images, trained on 8 GPUs.
# The published run related the images of one GPU to each other, 1 image a GPU: that is local:1.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_cirkdv2.py \
    --teacher-model deeplabv3 \
    --teacher-backbone resnet101 \
    --teacher-pretrained "$CKPT_ROOT/deeplabv3_resnet101_citys_best_model.pth" \
    --student-model deeplabv3_mobilenet_ssseg \
    --student-backbone mobilenetv3_small \
    --student-pretrained-base "$CKPT_ROOT/mobilenet_v3_small-47085aa1.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --batch-size 8 \
    --crop-size 512 1024 \
    --max-iterations 80000 \
    --optimizer-type sgd \
    --lr 0.01 \
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
    --pixel-memory-size 20000 \
    --region-memory-size 2000 \
    --channel-memory-size 10000 \
    --pixel-contrast-size 4096 \
    --region-contrast-size 1024 \
    --channel-contrast-size 2048 \
    --save-dir "$SAVE_ROOT" \
    "$@"
