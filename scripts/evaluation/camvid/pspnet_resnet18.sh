#!/usr/bin/env bash
# Evaluates PSPNet-ResNet18 on CamVid, distilled with CIRKDV2; --pretrained PATH evaluates another checkpoint.
# No checkpoint was released: copy your own to CKPT_ROOT, or name it.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch eval.py \
    --model psp \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_psp_resnet18_camvid_best_model.pth" \
    --dataset camvid \
    --data "$CAMVID_ROOT" \
    --split test \
    --save-dir "$SAVE_ROOT" \
    "$@"
