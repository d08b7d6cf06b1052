#!/usr/bin/env bash
# PSPNet-MobileNetV3-Small on CamVid, trained alone.
# The settings of the first CIRKD for CamVid; nothing was published for this network with CIRKDV2.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model psp_mobile \
    --backbone mobilenetv3_small \
    --pretrained-base "$CKPT_ROOT/mobilenet_v3_small-47085aa1.pth" \
    --dataset camvid \
    --data "$CAMVID_ROOT" \
    --batch-size 16 \
    --crop-size 360 360 \
    --max-iterations 40000 \
    --optimizer-type sgd \
    --lr 0.02 \
    --momentum 0.9 \
    --weight-decay 0.0001 \
    --save-dir "$SAVE_ROOT" \
    "$@"
