#!/usr/bin/env bash
# Pictures of the CamVid test images: masks in the official colours, blends, panels.
# PSPNet-MobileNetV3-Small distilled with CIRKDV2; --pretrained PATH with --model and --backbone shows another.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch eval.py \
    --model psp_mobile \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_psp_mobile_mobilenetv3_small_camvid_best_model.pth" \
    --dataset camvid \
    --data "$CAMVID_ROOT" \
    --split test \
    --save-pred \
    --blend \
    --panel \
    --save-dir "$SAVE_ROOT" \
    "$@"
