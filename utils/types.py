"""Types that several floors share."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class SegOutput(NamedTuple):
    """What every segmentation network returns.

    Attributes:
        logits: raw scores, (N, K, h, w), at the network's output stride (not resized to the image).
        features: the map that is distilled, (N, C, h', w'): the input of the last classifier.
        aux_logits: scores of the auxiliary head, (N, K, h'', w''), or None where there is none or it was skipped.
        last_stage: the backbone's last map, (N, C, h, w), or None where it was not asked for.
        inner: the head's inner map, (N, C, h, w): the input of the layers whose output is `features`; None likewise.
    """

    logits: Tensor
    features: Tensor
    aux_logits: Tensor | None = None
    last_stage: Tensor | None = None
    inner: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """Where in the run a micro-batch stands; what random selections and global means are computed from.

    Attributes:
        iteration: number of optimiser steps done before this one.
        micro_batch: index of this micro-batch among those whose gradients are accumulated.
        num_micro_batches: how many micro-batches make one optimiser step.
        target: labels of this process in ALL micro-batches of the step, (A*N, H, W), so that means can be taken over
            the whole step; None where the micro-batch is the whole step.
    """

    iteration: int = 0
    micro_batch: int = 0
    num_micro_batches: int = 1
    target: Tensor | None = None


UNLABELLED = 254
"""Label of the pixels of a training image without labels; its padding is 255 as always."""


class Batch(NamedTuple):
    """One micro-batch of one process as the loaders give it.

    Attributes:
        images: RGB, uint8, (N, 3, H, W).
        target: train ids, 255 = ignored, uint8, (N, H, W).
        valid_size: (height, width) of the part of each sample that is image and not padding, int64, (N, 2).
        positions: position of each sample in the training stream (training) or in the list of files (evaluation),
            int64, (N,).
    """

    images: Tensor
    target: Tensor
    valid_size: Tensor
    positions: Tensor
