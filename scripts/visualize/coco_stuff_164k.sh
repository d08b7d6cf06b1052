#!/usr/bin/env bash
# Pictures of the COCO-Stuff-164K validation images: masks in the official colours, blends, panels.
# PSPNet-MobileNetV3-Small distilled with CIRKDV2; --pretrained PATH with --model and --backbone shows another.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch eval.py \
    --model psp_mobile \
    --backbone mobilenetv3_small \
    --pretrained "$CKPT_ROOT/kd_psp_mobile_mobilenetv3_small_coco_stuff_164k_best_model.pth" \
    --dataset coco_stuff_164k \
    --data "$COCO_STUFF_ROOT" \
    --split val \
    --save-pred \
    --blend \
    --panel \
    --save-dir "$SAVE_ROOT" \
    "$@"
