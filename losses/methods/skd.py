"""SKD: pair-wise similarities of positions (Liu et al., CVPR 2019, "Structured Knowledge Distillation", eq. 2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Distiller, Terms, weight
from losses.functional import resize_like, unit
from utils.settings import Settings
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class SKDConfig(Settings):
    skd_weight: float = weight(10.0)


class SKD(Distiller):
    """Squared difference of the cosine similarities between all positions of an image."""

    Config = SKDConfig
    includes_kd = True
    includes_adversarial = True

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_skd"; see :meth:`Distiller.forward`."""
        if not self.config.skd_weight:
            return {}
        features = resize_like(student.features, teacher.features)
        return {"loss_skd": structural_loss(features, teacher.features) * self.config.skd_weight}


def structural_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities of all pairs of 2x2 regions of an image.

    The maps are max-pooled 2x2 and their positions brought to unit length; with S (C, L) and T (C', L) of one image
    the loss is mean((S^T S - T^T T)^2) over images and L x L pairs. The L x L matrices are never formed:
    ||S^T S - T^T T||^2 = ||S S^T||^2 - 2 ||S T^T||^2 + ||T T^T||^2, whose matrices have the size of the channels.

    Args:
        student: (B, C, h, w).
        teacher: (B, C', h, w); no gradient.

    Returns:
        0-dimensional, at least float32.
    """
    rows_s, rows_t = _pooled_unit(student), _pooled_unit(teacher.detach())  # (B, C, L), (B, C', L)
    own, cross, fixed = (_squared_norm(a, b) for a, b in ((rows_s, rows_s), (rows_s, rows_t), (rows_t, rows_t)))
    return ((own - 2 * cross + fixed) / (rows_s.shape[0] * rows_s.shape[2] ** 2)).to(rows_s.dtype)


def _squared_norm(left: Tensor, right: Tensor) -> Tensor:
    """Sum of squares of A B^T; float64, because the difference of such sums is far smaller than each."""
    with torch.autocast(left.device.type, enabled=False):
        return torch.bmm(left, right.mT).square().sum(dtype=torch.float64)


def _pooled_unit(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, L)."""
    return unit(F.max_pool2d(maps, 2, 2, ceil_mode=True).flatten(2), 1)
