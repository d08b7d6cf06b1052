"""A distillation method of your own, with every flag of the trainer: resume, several GPUs, combinations with others.

    python -m examples.own_method --method norm+kd --lambda-norm 2 --teacher-pretrained runs/teacher \
        --student-model psp --student-backbone mobilenetv2 --dataset camvid --data data/CamVid

Kept as a file of `losses/methods/` and a line in `losses/__init__.py`, it is a method of `train_kd.py`.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

import train_kd
from losses import METHODS
from losses.base import Distiller, temperature, weight
from losses.functional import resize_like
from utils.cli import run_cli
from utils.settings import Settings, setting
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class NormConfig(Settings):
    """Each line is a flag, checked, recorded and compared on resume."""

    norm_weight: float = weight(1.0, "of the difference of feature norms")
    norm_temperature: float = temperature(1.0, "divides the norms")
    norm_log: bool = setting(False, "compare logarithms of the norms")


class FeatureNorm(Distiller):
    """Matches how strongly the networks respond at each position."""

    Config = NormConfig

    def forward(
        self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None
    ) -> dict[str, Tensor]:
        if not self.config.norm_weight:
            return {}
        features = resize_like(student.features, teacher.features)
        norms = [x.float().pow(2).mean(1).sqrt() / self.config.norm_temperature for x in (features, teacher.features)]
        if self.config.norm_log:
            norms = [norm.log1p() for norm in norms]
        return {"loss_norm": self.config.norm_weight * F.mse_loss(*norms)}


if __name__ == "__main__":
    METHODS["norm"] = FeatureNorm
    run_cli(train_kd.main, resumable=True)
