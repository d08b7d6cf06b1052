"""Distils a trained teacher into a student with other methods than CIRKDV2, alone or together.

    python train_kd.py --method cwd --teacher-pretrained deeplabv3_resnet101_camvid_best_model.pth \
        --student-model deeplabv3 --student-backbone resnet18 --dataset camvid --data data/CamVid ...
    python train_kd.py --method at+dist --lambda-at 5000 ...
    torchrun --nproc-per-node=8 train_kd.py --method skd ...
"""

import argparse
from functools import partial

from engine.args import Parser, add_distillation_args, add_training_args, finish_training_args
from engine.cli import run_cli
from engine.distill import distil
from engine.methods import add_method_args, resolve_methods, run_name
from losses import build_combined


def parse_args() -> argparse.Namespace:
    parser = Parser("Distil a teacher into a student with one or several methods.")
    add_distillation_args(parser)
    add_method_args(parser)
    add_training_args(parser)
    return finish_training_args(parser.parse_args())


def main() -> None:
    args, configs = resolve_methods(parse_args())
    build = partial(build_combined, configs, distill_warmup_iters=args.distill_warmup_iters)
    distil(args, lambda args, *shapes: build(*shapes), run_name(args))


if __name__ == "__main__":
    run_cli(main, resumable=True)
