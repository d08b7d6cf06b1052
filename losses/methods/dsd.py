"""DSD: double similarity distillation (Feng et al., IEEE TIP 2021): differences between the attention maps of stages,
and the similarities of the classes."""

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Distiller, Shape, Terms, weight
from losses.functional import compute_dtype, resize_like, unit
from utils.settings import Settings
from utils.types import SegOutput, Step

CSD_TEMPERATURE = 4.0


@dataclass(frozen=True)
class DSDConfig(Settings):
    psd_weight: float = weight(1000.0, "on the attention maps (pixel-wise similarity)")
    csd_weight: float = weight(10.0, "on the logits (category-wise similarity)")


class DSD(Distiller):
    """Both terms; the stages are [auxiliary logits, features, logits] where both networks have auxiliary logits.

    Elsewhere they are [features, logits]. Every map is resized to the size of the teacher's features.
    """

    Config = DSDConfig

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        self.needs_teacher_aux = self.config.psd_weight > 0

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_psd" and "loss_csd"; see :meth:`Distiller.forward`."""
        losses: Terms = {}
        if self.config.psd_weight > 0:
            with_aux = student.aux_logits is not None and teacher.aux_logits is not None
            stages_s, stages_t = (
                [resize_like(stage, teacher.features) for stage in _stages(output, with_aux)]
                for output in (student, teacher)
            )
            losses["loss_psd"] = stage_difference_loss(stages_s, stages_t) * self.config.psd_weight
        if self.config.csd_weight > 0:
            logits = resize_like(student.logits, teacher.logits)
            losses["loss_csd"] = class_similarity_loss(logits, teacher.logits) * self.config.csd_weight
        return losses


def stage_difference_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Squared difference of the residual attention maps, mean over pairs of stages, images and positions.

    With a_i the attention map mean_c f_i^2 of stage i, of unit length over the positions, the residual map of a pair of
    stages n < m is a_m - a_n, brought to unit length.

    Args:
        student: maps (B, C_i, h, w) of two stages or more, from the first to the last.
        teacher: maps (B, C'_i, h, w) of the same stages; no gradient.

    Returns:
        0-dimensional, at least float32.
    """
    difference = _residuals(student) - _residuals([stage.detach() for stage in teacher])
    return difference.square().mean()


def class_similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the classes' similarities.

    The logits are average-pooled 2x2 and every class turned into a distribution over the positions (softmax of x / 4);
    its inner products with the other classes are the similarities.

    Args:
        student: (B, Y, h, w).
        teacher: (B, Y, h, w); no gradient.

    Returns:
        0-dimensional, at least float32: mean over B * Y * Y.
    """
    return (_class_gram(student) - _class_gram(teacher.detach())).square().mean()


def _stages(output: SegOutput, with_aux: bool) -> list[Tensor]:
    return [*([output.aux_logits] if with_aux else []), output.features, output.logits]


def _residuals(stages: list[Tensor]) -> Tensor:
    """(pairs, B, L)."""
    attention = [unit(stage.to(compute_dtype(stage)).square().mean(dim=1).flatten(1), 1) for stage in stages]
    return torch.stack([unit(late - early, 1) for early, late in combinations(attention, 2)])


def _class_gram(logits: Tensor) -> Tensor:
    """(B, Y, Y)."""
    pooled = F.avg_pool2d(logits.to(compute_dtype(logits)), 2, 2, ceil_mode=True)
    maps = (pooled.flatten(2) / CSD_TEMPERATURE).softmax(dim=2)
    with torch.autocast(maps.device.type, enabled=False):
        return torch.bmm(maps, maps.mT)
