"""Distils a trained teacher into a student with CIRKDV2.

    python train_cirkdv2.py --teacher-pretrained deeplabv3_resnet101_camvid_best_model.pth \
        --student-model deeplabv3 --student-backbone resnet18 --dataset camvid --data data/CamVid ...
    torchrun --nproc-per-node=8 train_cirkdv2.py ...
"""

import argparse

from engine.args import Parser, add_distillation_args, add_training_args, finish_training_args
from engine.cirkdv2_args import add_cirkdv2_args, cirkdv2_config
from engine.cli import run_cli
from engine.distill import distil
from losses import build_distiller


def parse_args() -> argparse.Namespace:
    parser = Parser("Distil a teacher into a student with CIRKDV2.")
    add_distillation_args(parser)
    add_cirkdv2_args(parser)
    add_training_args(parser)
    return finish_training_args(parser.parse_args())


def main() -> None:
    args = parse_args()
    cirkdv2_config(args)  # what is wrong is said before anything is loaded
    distil(args, lambda args, *shapes: build_distiller("cirkdv2", *shapes, config=cirkdv2_config(args)))


if __name__ == "__main__":
    run_cli(main, resumable=True)
