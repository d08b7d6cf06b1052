"""DIST: correlation with the teacher's distributions (Huang et al., NeurIPS 2022, arXiv:2205.10536).

Symbols: N images of this process, B of all processes, Y classes, h x w positions of the logits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from losses.base import Distiller, Shape, Terms, weight
from losses.functional import compute_dtype, resize_like
from utils.distributed import all_gather_with_grad, all_reduce_sum, get_world_size
from utils.settings import NON_NEGATIVE, Settings, setting
from utils.types import SegOutput, Step

# Added to the product of two norms, as published: a class that is (nearly) absent from both networks' probabilities
# counts as uncorrelated.
_EPSILON = 1e-8
# Squared norms below it count as 0, whose square root has no gradient.
_ZERO = 1e-30


@dataclass(frozen=True)
class DISTConfig(Settings):
    dist_weight: float = weight(1.0)
    dist_aux_factor: float = setting(
        0.4, "weight within the term of the auxiliary heads, where both networks have one", check=NON_NEGATIVE
    )


class DIST(Distiller):
    """1 - correlation of the classes at a position, and 1 - correlation of the positions of a class."""

    Config = DISTConfig

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        config = self.config
        self.needs_teacher_aux = config.dist_weight > 0 and config.dist_aux_factor > 0

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_dist", over all positions (ignored ones included); see :meth:`Distiller.forward`.

        A class is correlated over the micro-batch of all processes together.
        """
        config = self.config
        if not config.dist_weight:
            return {}
        loss = correlation_loss(student.logits, teacher.logits)
        if config.dist_aux_factor and student.aux_logits is not None and teacher.aux_logits is not None:
            loss = loss + config.dist_aux_factor * correlation_loss(student.aux_logits, teacher.aux_logits)
        return {"loss_dist": loss * config.dist_weight}


def correlation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Inter-class and intra-class loss of the probabilities, with equal weights.

    Args:
        student_logits: (N, Y, h', w'), resized to the teacher's size where it differs.
        teacher_logits: (N, Y, h, w), no gradient.

    Returns:
        0-dimensional, in [0, 4]. The mean over processes is the value of the global batch.
    """
    dtype = compute_dtype(student_logits)
    teacher = teacher_logits.detach().to(dtype)
    student = resize_like(student_logits.to(dtype), teacher).softmax(dim=1)
    teacher = teacher.softmax(dim=1)
    return (1 - _class_correlation(student, teacher).mean()) + (1 - _position_correlation(student, teacher).mean())


def _class_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson correlation of the Y probabilities at every position: (N, Y, h, w) -> (N, h, w)."""
    student = student - student.mean(dim=1, keepdim=True)
    teacher = teacher - teacher.mean(dim=1, keepdim=True)
    return _correlation((student * teacher).sum(1), student.square().sum(1), teacher.square().sum(1))


def _position_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson correlation of every class's probabilities at the positions of all images: (N, Y, h, w) -> (Y,)."""
    dims = (0, 2, 3)
    count = get_world_size() * student.shape[0] * student.shape[2] * student.shape[3]
    # The means need no gradient: the sums of products of centred values do not change with them to first order.
    means = all_reduce_sum(torch.stack([student.sum(dims), teacher.sum(dims)])) / count  # (2, Y)
    student = student - means[0, :, None, None]
    teacher = teacher - means[1, :, None, None]
    products = torch.stack([(student * teacher).sum(dims), student.square().sum(dims), teacher.square().sum(dims)])
    return _correlation(*all_gather_with_grad(products[None]).sum(0))


def _correlation(product: Tensor, student_square: Tensor, teacher_square: Tensor) -> Tensor:
    norms = student_square.clamp(min=_ZERO).sqrt() * teacher_square.clamp(min=_ZERO).sqrt()
    return product / (norms + _EPSILON)
