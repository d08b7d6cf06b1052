"""Masked generative distillation (Yang et al., ECCV 2022, arXiv:2205.01529)."""

from dataclasses import dataclass

from torch import Tensor

from losses.base import Distiller, Shape, Terms, shared_seed, weight
from losses.modules.reconstruction import MaskedReconstruction, reconstruction_error
from utils.settings import FRACTION, Settings, setting
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class MGDConfig(Settings):
    mgd_weight: float = weight(2e-5, "of a sum over channels and positions")
    mgd_mask_ratio: float = setting(0.75, "share of positions that are hidden", check=FRACTION)
    seed: int = shared_seed()


class MGD(Distiller):
    """Squared error of the teacher's features generated from a quarter of the student's positions."""

    Config = MGDConfig
    includes_kd = True

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        config = self.config
        self.reconstruction = None
        if config.mgd_weight:
            self.reconstruction = MaskedReconstruction(
                student_shape[0], teacher_shape[0], config.mgd_mask_ratio, config.seed
            )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_mgd", over all positions (ignored ones included); see :meth:`Distiller.forward`."""
        if self.reconstruction is None:
            return {}
        generated = self.reconstruction(student.features, teacher.features, step)
        return {"loss_mgd": reconstruction_error(generated, teacher.features) * self.config.mgd_weight}
