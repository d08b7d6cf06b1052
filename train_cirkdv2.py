"""Distils a trained teacher into a student with CIRKDV2.

    python train_cirkdv2.py --teacher-pretrained deeplabv3_resnet101_camvid_best_model.pth \
        --student-model deeplabv3 --student-backbone resnet18 --dataset camvid --data data/CamVid ...
    torchrun --nproc-per-node=8 train_cirkdv2.py ...
"""

from functools import partial

from engine.config.legacy_flags import read_command_line
from engine.config.methods import CIRKDV2RunConfig
from engine.setup.distill import distil
from losses import build_distiller
from utils.cli import run_cli


def parse(words: list[str] | None = None) -> CIRKDV2RunConfig:
    description = "Distil a teacher into a student with CIRKDV2."
    return read_command_line(CIRKDV2RunConfig, description, words)


def main() -> None:
    config = parse()
    distil(config, partial(build_distiller, "cirkdv2", config=config.cirkdv2))


if __name__ == "__main__":
    run_cli(main, resumable=True)
