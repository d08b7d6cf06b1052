"""Distils a trained teacher into a student with other methods than CIRKDV2, alone or together.

    python train_kd.py --method cwd --teacher-pretrained deeplabv3_resnet101_camvid_best_model.pth \
        --student-model deeplabv3 --student-backbone resnet18 --dataset camvid --data data/CamVid ...
    python train_kd.py --method at+dist --lambda-at 5000 ...
    torchrun --nproc-per-node=8 train_kd.py --method skd ...
"""

from engine.config.legacy_flags import read_command_line
from engine.config.methods import KDConfig
from engine.setup.distill import distil
from utils.cli import run_cli


def parse(words: list[str] | None = None) -> KDConfig:
    description = "Distil a teacher into a student with one or several methods."
    return read_command_line(KDConfig, description, words)


def main() -> None:
    config = parse()
    distil(config, config.methods.build, config.run_name)


if __name__ == "__main__":
    run_cli(main, resumable=True)
