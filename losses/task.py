"""The segmentation loss, and the rule for means over pixels."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from losses.base import IGNORE_INDEX
from losses.functional import compute_dtype
from utils.distributed import global_mean_scale
from utils.types import SegOutput, Step


def segmentation_loss(
    output: SegOutput,
    target: Tensor,
    aux_weight: float = 0.4,
    step: Step | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Cross entropy at the size of the labels, averaged over the pixels of the global batch that are not ignored.

    Args:
        output: the network's output; logits are resized bilinearly (align_corners=True) to the labels.
        target: (N, H, W) int64, 255 = ignored.
        aux_weight: weight of the auxiliary head's loss; at 0, or without such a head, there is no such term.
        step: where in the run this micro-batch stands.
        label_smoothing: share of each label that is spread evenly over all classes (Szegedy et al., CVPR 2016).

    Returns:
        "loss_task" and, with an auxiliary head, "loss_aux", already weighted. 0 with zero gradients where every pixel
        is ignored.
    """
    scale = mean_scale(target, step, lambda labels: (labels != IGNORE_INDEX).sum())
    losses = {"loss_task": _cross_entropy_sum(output.logits, target, label_smoothing) * scale}
    if output.aux_logits is not None and aux_weight:
        losses["loss_aux"] = _cross_entropy_sum(output.aux_logits, target, label_smoothing) * (scale * aux_weight)
    return losses


def mean_scale(target: Tensor, step: Step | None, count: Callable[[Tensor], Tensor]) -> Tensor:
    """Factor that turns this micro-batch's sum on this process into its share of the mean over the whole step.

    The trainer averages over micro-batches and DistributedDataParallel over processes. If their numbers of elements
    differ, the mean of their means is not the mean; the sum times this factor is.

    Args:
        target: labels of the micro-batch, (N, H, W).
        step: its ``target`` holds the labels of all micro-batches. Without them the mean is over this micro-batch.
        count: labels -> number of elements that the loss sums over, without host synchronisation.

    Returns:
        float32; 0 if nothing is counted.
    """
    if step is None or step.target is None:
        return global_mean_scale(count(target))
    return global_mean_scale(count(step.target)) * step.num_micro_batches


def _cross_entropy_sum(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    logits = F.interpolate(logits.to(compute_dtype(logits)), size=target.shape[1:], mode="bilinear", align_corners=True)
    return F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing)
