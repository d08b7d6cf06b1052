"""The soft Dice loss over the global batch."""

import torch
from torch import Tensor

from losses.base import IGNORE_INDEX
from utils.distributed import all_reduce_sum_with_grad

SMOOTHING = 1.0
"""Pixels added to numerator and denominator, so that a class of few pixels changes smoothly."""


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - the mean of the classes' Dice coefficients; the classes that occur in the labels count alike.

    Of class c, with predicted probabilities p and labels y (0 or 1) of the pixels i that are not ignored, of all
    processes together,

        dice_c = (2 sum_i p_ic y_ic + 1) / (sum_i p_ic + sum_i y_ic + 1)

    (Milletari et al., V-Net, 3DV 2016, there with squares in the denominator; the one pixel is `SMOOTHING`.)

    Args:
        logits: (N, K, H, W), float32 or float64.
        target: (N, H, W) int64, 255 = ignored.

    Returns:
        0-dimensional, equal on all processes; the mean over processes of its gradients is the gradient. 0 with zero
        gradients where every pixel is ignored.
    """
    images, classes = logits.shape[:2]
    probabilities = logits.softmax(dim=1)
    valid = target != IGNORE_INDEX
    labels = target.where(valid, 0)
    of_label = probabilities.gather(1, labels[:, None])[:, 0]
    # By image and class first: one sum over all pixels of a large batch would lose its last addends in float32.
    bins = (labels + classes * torch.arange(images, device=labels.device)[:, None, None]).flatten()
    by_image = probabilities.new_zeros(images * classes)
    common = by_image.index_add(0, bins, (of_label * valid).flatten()).view(images, classes)
    labelled = by_image.index_add(0, bins, valid.to(by_image.dtype).flatten()).view(images, classes)
    predicted = (probabilities * valid[:, None]).sum((2, 3))
    sums = torch.stack([common, predicted, labelled]).sum(1)
    common, predicted, labelled = all_reduce_sum_with_grad(sums)
    coefficients = (2 * common + SMOOTHING) / (predicted + labelled + SMOOTHING)
    occurs = labelled > 0
    return ((1 - coefficients) * occurs).sum() / occurs.sum().clamp_min(1)
