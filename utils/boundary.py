"""Boundary IoU: how well the outlines of the classes are met (Cheng et al., CVPR 2021, arXiv:2103.16562)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from utils.metrics import PixelCounts, histogram, ratio

_OUTSIDE = 254  # fills the frame around an image: neither a class (at most 254 of them, from 0) nor void
_VOID = 255


def boundary_distance(height: int, width: int, diagonal_ratio: float) -> int:
    """The distance d in pixels, at least 1: a part of the image's diagonal."""
    return max(1, round(diagonal_ratio * math.hypot(height, width)))


def boundary_pixels(labels: Tensor, distance: int) -> Tensor:
    """Pixels of each class within `distance` of the class's contour, for all classes at once.

    A pixel of class k belongs to it where the square of 2 * distance + 1 pixels around it holds anything but k, another
    class, void or the outside of the image: distances are chessboard distances, as `distance` erosions by 3x3 measure
    them in the paper's implementation.

    Args:
        labels: class ids or 255, uint8 (N, H, W).
        distance: pixels, at least 1.

    Returns:
        bool (N, H, W); what it holds where a label is 255 has no meaning.
    """
    framed = torch.nn.functional.pad(labels, [distance] * 4, value=_OUTSIDE)
    width = 2 * distance + 1
    lowest, highest = (
        _over_window(_over_window(framed, width, combine, -1), width, combine, -2)
        for combine in (torch.minimum, torch.maximum)
    )
    return lowest != highest


def _over_window(values: Tensor, width: int, combine: Callable[[Tensor, Tensor], Tensor], dim: int) -> Tensor:
    """`combine` of all `width` neighbours along `dim`, in about log2(width) steps: windows of 2, 4, 8, ... pixels."""
    span = 1
    while span < width:
        shift = min(span, width - span)
        length = values.shape[dim] - shift
        values = combine(values.narrow(dim, 0, length), values.narrow(dim, shift, length))
        span += shift
    return values


class BoundaryCounts(PixelCounts):
    """Counts of boundary pixels over a data set.

    Of each class, with G and P its pixels in truth and prediction within d of their own contours: |G|, |P| and
    |G and P|, summed over all images; boundary IoU is |G and P| / |G or P| of the sums. d is a part of each image's own
    diagonal. Pixels that are void in the truth are void in the prediction too and counted nowhere; the edge of a void
    region is a contour of both, so that a prediction that is right on all labelled pixels reaches 1.

    Args:
        num_classes: K, at most 254.
        diagonal_ratio: d / diagonal; the paper's default is 0.02.
        device: of the counts, predictions and targets.
    """

    def __init__(self, num_classes: int, diagonal_ratio: float = 0.02, device: torch.device | str = "cpu") -> None:
        if not 1 <= num_classes <= _OUTSIDE:
            raise ValueError(f"num_classes is {num_classes}: expected 1 to {_OUTSIDE}")
        if not 0 < diagonal_ratio < 1:
            raise ValueError(f"the ratio of the diagonal is {diagonal_ratio}: expected a number between 0 and 1")
        self.num_classes, self.diagonal_ratio = num_classes, diagonal_ratio
        super().__init__(3, num_classes, device=device)  # |G|, |P|, |G and P|

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds the pixels of some images.

        Args:
            prediction: class ids, any integer type, (N, H, W).
            target: class ids or 255, any integer type, of the same shape.

        Raises:
            ValueError: the shapes differ or are no (N, H, W), or one of the two holds no integers.
        """
        self._check(prediction, target)
        if target.dim() != 3:
            raise ValueError(f"got label maps of shape {tuple(target.shape)}: expected (N, H, W)")
        distance = boundary_distance(*target.shape[-2:], self.diagonal_ratio)
        target = target.to(torch.uint8)
        prediction = torch.where(target == _VOID, target, prediction.to(torch.uint8))
        in_target = boundary_pixels(target, distance)
        in_prediction = boundary_pixels(prediction, distance)
        in_both = in_target & in_prediction & (prediction == target)
        for counts, labels, chosen in zip(
            self._counts, (target, prediction, target), (in_target, in_prediction, in_both), strict=True
        ):
            labels = torch.where(chosen, labels, _VOID).reshape(-1).long()
            counts += histogram(labels, _VOID + 1)[: self.num_classes]

    def compute(self) -> np.ndarray:
        """Boundary IoU of each class, float64 (K,); 0 where a class occurs neither in truth nor in prediction."""
        truth, predicted, both = self._counts.cpu().numpy()
        return ratio(both, truth + predicted - both)
