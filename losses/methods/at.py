"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from losses.base import Distiller, Terms, weight
from losses.functional import compute_dtype, resize_like, unit
from utils.settings import Settings
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class ATConfig(Settings):
    at_weight: float = weight(1e4)


class AT(Distiller):
    """Mean squared difference of the attention maps of student and teacher.

    The maps have no channels, so nothing is adapted where the networks' channels differ.
    """

    Config = ATConfig
    includes_kd = True

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_at", over all positions (ignored ones included); see :meth:`Distiller.forward`."""
        if not self.config.at_weight:
            return {}
        teacher_features = teacher.features.detach()
        student_features = resize_like(student.features, teacher_features)
        loss = F.mse_loss(attention_map(student_features), attention_map(teacher_features))
        return {"loss_at": loss * self.config.at_weight}


def attention_map(features: Tensor) -> Tensor:
    """Mean over channels of the squared features, L2-normalised over positions: (N, C, h, w) -> (N, h * w).

    The paper sums the squares over channels (p = 2); the mean differs by a factor, which the normalisation removes.
    """
    energy = features.to(compute_dtype(features)).square().mean(dim=1)
    return unit(energy.flatten(1), dim=1)
