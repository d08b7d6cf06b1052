#!/usr/bin/env bash
# Embeddings of pixels by class in the plane, the Cityscapes teacher beside a distilled student, as one figure.
# For others: --pretrained TEACHER STUDENT ..., and --data for another data set.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

NPROC=1 # one process samples and draws
launch visualize_embeddings.py \
    --pretrained "$CKPT_ROOT/deeplabv3_resnet101_citys_best_model.pth" \
    "$CKPT_ROOT/kd_deeplabv3_resnet18_citys_best_model.pth" \
    --dataset citys \
    --data "$CITYS_ROOT" \
    --split val \
    --method tsne \
    --num-images 50 \
    --pixels-per-class 300 \
    --seed 0 \
    --save-dir "$SAVE_ROOT" \
    "$@"
