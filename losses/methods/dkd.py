"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv:2203.08679)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import IGNORE_INDEX, Distiller, Terms, temperature, weight
from losses.functional import compute_dtype, resize_labels, resize_like
from losses.task import mean_scale
from utils.settings import NON_NEGATIVE, Settings, setting
from utils.types import SegOutput, Step

# Logit of the excluded class. Finite, so that its part of a divergence is 0 * 0, not 0 * (inf - inf).
_EXCLUDED = -1e30


@dataclass(frozen=True)
class DKDConfig(Settings):
    dkd_weight: float = weight(1.0)
    dkd_alpha: float = setting(1.0, "weight of target against rest", check=NON_NEGATIVE)
    dkd_beta: float = setting(2.0, "weight of the other classes among themselves", check=NON_NEGATIVE)
    dkd_temperature: float = temperature(1.0, "of the logits")


class DKD(Distiller):
    """Distillation of the logits, the label's class and the others apart, over the positions that are not ignored."""

    Config = DKDConfig

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_dkd", 0 where every pixel is ignored; see :meth:`Distiller.forward`."""
        config = self.config
        if not config.dkd_weight:
            return {}
        size = teacher.logits.shape[2:]
        dtype = compute_dtype(student.logits)
        divergence = decoupled_kl(
            resize_like(student.logits.to(dtype), teacher.logits),
            teacher.logits.detach().to(dtype),
            resize_labels(target, size),
            config.dkd_alpha,
            config.dkd_beta,
            config.dkd_temperature,
        )
        scale = mean_scale(target, step, lambda labels: (resize_labels(labels, size) != IGNORE_INDEX).sum())
        return {"loss_dkd": divergence.sum() * (scale * config.dkd_weight)}


def decoupled_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Divergence of every position: equation 7 of the paper.

    Args:
        student: logits (N, Y, h, w), float32 or float64.
        teacher: logits (N, Y, h, w) of the same dtype.
        labels: (N, h, w) int64, 255 = ignored.
        alpha: weight of KL between (label's class, rest).
        beta: weight of KL between the distributions over the classes other than the label's.
        temperature: both logits are divided by it; the result is multiplied by its square.

    Returns:
        (N, h, w), 0 where the label is ignored.
    """
    valid = labels != IGNORE_INDEX
    index = labels.where(valid, 0)[:, None]  # (N, 1, h, w)
    student_binary, student_others = _decouple(student / temperature, index)
    teacher_binary, teacher_others = _decouple(teacher / temperature, index)
    divergence = alpha * _kl(student_binary, teacher_binary) + beta * _kl(student_others, teacher_others)
    return torch.where(valid, divergence * temperature**2, 0)


def _decouple(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of (target, rest), (N, 2, h, w), and of the classes without the target, (N, Y, h, w)."""
    others = logits.scatter(1, index, _EXCLUDED)
    # The rest's logit is the log-sum-exp of its classes: 1 - p would lose it where p is near 1.
    binary = torch.cat([logits.gather(1, index), others.logsumexp(dim=1, keepdim=True)], dim=1)
    return binary.log_softmax(dim=1), others.log_softmax(dim=1)


def _kl(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
