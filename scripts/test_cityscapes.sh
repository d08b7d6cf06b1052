#!/usr/bin/env bash
# A submission to the Cityscapes test server: predicts the 1525 test images and zips their labelId masks.
# For another network: --model, --backbone, --pretrained and --submission.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch eval.py \
    --model deeplabv3 \
    --backbone resnet18 \
    --pretrained "$CKPT_ROOT/kd_deeplabv3_resnet18_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split test \
    --submission "$SAVE_ROOT/kd_deeplabv3_resnet18_citys_submission.zip" \
    --save-dir "$SAVE_ROOT" \
    "$@"
