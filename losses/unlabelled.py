"""Images without labels, in distillation: what the teacher says stands in for the labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import IGNORE_INDEX
from losses.functional import compute_dtype
from utils.types import UNLABELLED


def teacher_labels(logits: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """The teacher's class where it is sure, else 255.

    Args:
        logits: (N, K, h, w); resized bilinearly (align_corners=True) to `size`.
        size: (H, W) of the labels.
        threshold: its probability from which on it is taken.

    Returns:
        (N, H, W) int64.
    """
    logits = F.interpolate(logits.to(compute_dtype(logits)), size=size, mode="bilinear", align_corners=True)
    probability, label = logits.softmax(dim=1).max(dim=1)
    return label.masked_fill(probability < threshold, IGNORE_INDEX)


def split_labels(
    target: Tensor, teacher_logits: Tensor, threshold: float, pseudo_labels: bool
) -> tuple[Tensor, Tensor]:
    """(labels of the task's loss, labels of the distillation terms), both (N, H, W) int64, 255 = ignored.

    Args:
        target: (N, H, W) int64 with `UNLABELLED`.
        teacher_logits: (N, K, h, w).
        threshold: see `teacher_labels`.
        pseudo_labels: whether the task's loss takes the teacher's labels too.
    """
    unlabelled = target == UNLABELLED
    taught = torch.where(unlabelled, teacher_labels(teacher_logits, target.shape[1:], threshold), target)
    return (taught if pseudo_labels else without_unlabelled(target)), taught


def without_unlabelled(target: Tensor) -> Tensor:
    """The labels with `UNLABELLED` pixels ignored."""
    return target.masked_fill(target == UNLABELLED, IGNORE_INDEX)
