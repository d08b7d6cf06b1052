"""The segmentation loss, and the rule for means over pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import IGNORE_INDEX
from losses.dice import dice_loss
from losses.functional import compute_dtype
from losses.hard_pixels import check_ohem, hard_pixels
from utils.distributed import all_reduce_sum, get_world_size, global_mean_scale
from utils.settings import FRACTION, NON_NEGATIVE, Settings, setting
from utils.types import SegOutput, Step

COUNTED_WEIGHTS = ("balanced", "median")
"""Values of --class-weights that follow from the pixels of the training split; others name a file."""
CLASS_WEIGHTS_HELP = (
    "weights of the classes in the cross entropy, whose mean is weighted by them: balanced: the inverse of the class's "
    "pixels in the training split; median: median frequency balancing; FILE: one weight a line in the order of the "
    "classes, or lines of a name and a weight. The split's pixels are counted once, at the start"
)
OHEM_HELP = (
    "cross entropy of the hardest pixels alone: fraction:F: the share F whose label has the least predicted "
    "probability; threshold:P: those where that is at most P, and at least a sixteenth of all"
)
DICE_HELP = "weight of the soft Dice loss, which is added to the cross entropy; 0 is off"


def _same_weights(then: Any, now: Any) -> bool:
    """Whether a run may be resumed with that value: a file may have moved, its weights are compared elsewhere."""
    return then == now or None not in (then, now) and not {then, now} & {*COUNTED_WEIGHTS}


@dataclass(frozen=True)
class TaskLossConfig(Settings):
    """The loss on the labels, of the network's head and, times its weight, of the auxiliary one."""

    class_weights: str | None = setting(
        None, CLASS_WEIGHTS_HELP, resume=_same_weights, options={"metavar": "balanced|median|FILE"}
    )  # fmt: skip
    ohem: str | None = setting(
        None, OHEM_HELP, convert=check_ohem, options={"metavar": "fraction:F|threshold:P"}
    )  # fmt: skip
    dice: float = setting(0.0, DICE_HELP, check=NON_NEGATIVE, options={"metavar": "WEIGHT"})
    label_smoothing: float = setting(
        0.0, "share of each label that is spread over all classes in the cross entropy", check=FRACTION
    )


def segmentation_loss(
    output: SegOutput,
    target: Tensor,
    aux_weight: float = 0.4,
    step: Step | None = None,
    config: TaskLossConfig | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Cross entropy at the size of the labels over the pixels that are not ignored, and what the config adds to it.

    Of a pixel with label y and predicted probabilities p of K classes, with label smoothing e and weights w of the
    classes (1 without), it is

        (1 - e) w_y (-log p_y) + e / K sum_c w_c (-log p_c)      (Szegedy et al., CVPR 2016)

    and the loss is the sum over the pixels of the step's global batch, divided by the sum of their w_y: both as torch's
    cross entropy, so that a common factor of all weights changes nothing.

    With `ohem` (online hard example mining; Shrivastava et al., CVPR 2016) the sums are over the pixels that
    `losses.hard_pixels` chooses among all of the global micro-batch; micro-batches count by their sums of w_y over all
    pixels, chosen or not. `losses.dice`, which knows neither weights, smoothing nor hard pixels, is added as a term of
    its own. The auxiliary head's term is `aux_weight` times the same, Dice included, of its own logits, with its own
    hard pixels.

    Args:
        output: the network's output; logits are resized bilinearly (align_corners=True) to the labels.
        target: (N, H, W) int64, 255 = ignored.
        aux_weight: weight of the auxiliary head's loss; at 0, or without such a head, there is no such term.
        step: where in the run this micro-batch stands.
        config: what is added, None = nothing. Its `class_weights` is not read, but `class_weights`.
        class_weights: (K,) not negative, floating point. Pixels of a class of weight 0 are no hard ones.

    Returns:
        "loss_task", with Dice "loss_dice" and, with an auxiliary head, "loss_aux", already weighted. 0 with zero
        gradients where every pixel is ignored.
    """
    config = config or TaskLossConfig()
    labels = _Labels(target, step, class_weights)
    logits = _resized(output.logits, target)
    losses = {"loss_task": _cross_entropy(logits, labels, config)}
    if config.dice:
        losses["loss_dice"] = dice_loss(logits, target) * config.dice
    if output.aux_logits is not None and aux_weight:
        logits = _resized(output.aux_logits, target)
        losses["loss_aux"] = _cross_entropy(logits, labels, config) * aux_weight
        if config.dice:
            losses["loss_aux"] = losses["loss_aux"] + dice_loss(logits, target) * (config.dice * aux_weight)
    return losses


def mean_scale(target: Tensor, step: Step | None, count: Callable[[Tensor], Tensor]) -> Tensor:
    """Factor that turns this micro-batch's sum on this process into its share of the mean over the whole step.

    The trainer averages over micro-batches and DistributedDataParallel over processes. If their numbers of elements
    differ, the mean of their means is not the mean; the sum times this factor is.

    Args:
        target: labels of the micro-batch, (N, H, W).
        step: its ``target`` holds the labels of all micro-batches. Without them the mean is over this micro-batch.
        count: labels -> number of elements that the loss sums over, or sum of their weights, without host
            synchronisation.

    Returns:
        float32; 0 if nothing is counted.
    """
    if step is None or step.target is None:
        return global_mean_scale(count(target))
    return global_mean_scale(count(step.target)) * step.num_micro_batches


class _Labels:
    """The labels of a micro-batch with the weights of their pixels, for both heads.

    Attributes:
        target: (N, H, W), 255 = ignored.
        class_weights: (K,) or None.
        scale: see `mean_scale`.
    """

    def __init__(self, target: Tensor, step: Step | None, class_weights: Tensor | None) -> None:
        self.target, self.class_weights = target, class_weights
        if class_weights is not None:
            self._table = class_weights.new_zeros(IGNORE_INDEX + 1)
            self._table[: len(class_weights)] = class_weights
        self.scale = mean_scale(target, step, self._total)
        self._whole_step = step is None or step.target is None

    def pixel_weights(self, labels: Tensor) -> Tensor:
        """w_y of each pixel: 0 where it is ignored, and without weights whether it is not, as bool."""
        return labels != IGNORE_INDEX if self.class_weights is None else self._table[labels.long()]

    def _total(self, labels: Tensor) -> Tensor:
        return self.pixel_weights(labels).sum()

    @cached_property
    def share(self) -> Tensor | float:
        """The global micro-batch's part of the step's pixel weights, times the number of micro-batches."""
        if self._whole_step:
            return 1.0
        return all_reduce_sum(self._total(self.target)) * self.scale / get_world_size()


def _resized(logits: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(logits.to(compute_dtype(logits)), size=target.shape[1:], mode="bilinear", align_corners=True)


def _cross_entropy(logits: Tensor, labels: _Labels, config: TaskLossConfig) -> Tensor:
    weight = None if labels.class_weights is None else labels.class_weights.to(logits.dtype)
    options = {"weight": weight, "ignore_index": IGNORE_INDEX, "label_smoothing": config.label_smoothing}
    if config.ohem is None:
        return F.cross_entropy(logits, labels.target, reduction="sum", **options) * labels.scale
    losses = F.cross_entropy(logits, labels.target, reduction="none", **options)
    with torch.no_grad():
        hardness = losses.detach()
        if weight is not None or config.label_smoothing:
            hardness = F.cross_entropy(logits, labels.target, ignore_index=IGNORE_INDEX, reduction="none")
        pixel_weights = labels.pixel_weights(labels.target)
        kept = hard_pixels(hardness, pixel_weights > 0, config.ohem)
        scale = global_mean_scale((pixel_weights * kept).sum()) * labels.share
    return (losses * kept).sum() * scale
