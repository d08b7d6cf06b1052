#!/usr/bin/env bash
# PSPNet-MobileViT-XXS on Cityscapes, trained alone.
# Published: 65.48 mIoU on the test images, trained on 4 GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

launch train_baseline.py \
    --model psp_mobile \
    --backbone mobilevit_xx_small \
    --pretrained-base "$CKPT_ROOT/mobilevit-xxsmall_3rdparty_in1k_20221018-77835605.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --batch-size 8 \
    --crop-size 512 1024 \
    --max-iterations 80000 \
    --optimizer-type adamw \
    --lr 0.0009 \
    --momentum 0.9 \
    --weight-decay 0.01 \
    --save-dir "$SAVE_ROOT" \
    "$@"
