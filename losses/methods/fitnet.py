"""Hints: the student's features imitate the teacher's (Romero et al., ICLR 2015, arXiv:1412.6550)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from losses.base import Distiller, Shape, Terms, weight
from losses.functional import compute_dtype, resize_like
from utils.settings import Settings
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class FitNetConfig(Settings):
    fitnet_weight: float = weight(10.0)


class FitNet(Distiller):
    """Mean squared error of the student's features, through a trained 1x1 convolution, to the teacher's.

    The convolution exists where the channels are equal too: it is the regressor of equation 3 of the paper.
    """

    Config = FitNetConfig
    includes_kd = True

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        self.adapter = None
        if self.config.fitnet_weight:
            self.adapter = nn.Conv2d(student_shape[0], teacher_shape[0], 1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_fitnet", over all positions (ignored ones included); see :meth:`Distiller.forward`."""
        if self.adapter is None:
            return {}
        teacher_features = teacher.features.detach()
        adapted = self.adapter(resize_like(student.features, teacher_features))
        dtype = compute_dtype(adapted)
        loss = F.mse_loss(adapted.to(dtype), teacher_features.to(dtype))
        return {"loss_fitnet": loss * self.config.fitnet_weight}
