#!/usr/bin/env bash
# Evaluates DeepLabV3-MobileNetV3-Small on CamVid, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# No checkpoint was released: copy your own to CKPT_ROOT, or name it.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model deeplabv3_mobilenet_ssseg \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_mobilenet_ssseg_mobilenetv3_small_camvid_best_model.pth" \
    --dataset camvid \
    --data "$CAMVID_ROOT" \
    --split test \
    --save-dir "$SAVE_ROOT" \
    "$@"
