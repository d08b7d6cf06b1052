"""Pixel-wise distillation of the logits (Hinton et al. 2015, arXiv:1503.02531)."""

from dataclasses import dataclass

from torch import Tensor

from losses.base import Distiller, Terms, temperature, weight
from losses.functional import pixel_kl
from utils.settings import Settings, setting
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class KDConfig(Settings):
    kd_weight: float = weight(1.0)
    kd_temperature: float = temperature(1.0, "of the logits")
    kd_standardize: bool = setting(
        False, "logits of mean 0 and standard deviation 1 over the classes at each position (Sun et al., CVPR 2024)"
    )


class KD(Distiller):
    """KL divergence between the class distributions of teacher and student at every position."""

    Config = KDConfig

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_kd"; see :meth:`Distiller.forward`."""
        if not self.config.kd_weight:
            return {}
        config = self.config
        loss = pixel_kl(student.logits, teacher.logits, config.kd_temperature, standardize=config.kd_standardize)
        return {"loss_kd": loss * self.config.kd_weight}
