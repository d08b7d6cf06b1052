#!/usr/bin/env bash
# DeepLabV3-MobileNetV3-Large on COCO-Stuff-164K, trained alone.
# Published: 30.31 mIoU on the validation images, trained on 4 GPUs.
# Published was the last checkpoint and not the best one: it is validated once, at the end.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_large \
    --pretrained-base "$CKPT_ROOT/mobilenet_v3_large-bc2c3fd3.pth" \
    --dataset coco_stuff_164k \
    --data "$COCO_STUFF_ROOT" \
    --batch-size 16 \
    --crop-size 512 512 \
    --max-iterations 80000 \
    --optimizer-type sgd \
    --lr 0.02 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --val-per-iters 80000 \
    --save-dir "$SAVE_ROOT" \
    "$@"
