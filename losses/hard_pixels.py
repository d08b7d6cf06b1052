"""Online hard example mining: which pixels of the global batch are hard, without gathering any.

Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, CVPR 2016; of pixels with a
threshold and a least number as in Wu et al., Bridging Category-level and Instance-level Semantic Image Segmentation,
2016.
"""

import math

import torch
from torch import Tensor

from utils.distributed import all_reduce_sum
from utils.settings import require

LEAST_SHARE = 1 / 16
"""Of the valid pixels, which a threshold keeps whatever their probability."""


def check_ohem(text: str) -> str:
    """Returns a valid value of the setting; ValueError for others."""
    _parsed(text)
    return text


def hard_pixels(hardness: Tensor, valid: Tensor, ohem: str) -> Tensor:
    """The hard pixels of the micro-batch of all processes together.

    Every process has to call it. Takes up to 64 small collectives, and does not wait for the device.

    Args:
        hardness: -log of the predicted probability of each pixel's label, (N, H, W), floating point.
        valid: which pixels have a label, bool (N, H, W).
        ohem: "fraction:F": the hardest F of the valid ones, at least one, and those that are as hard as the last of
            them; "threshold:P": those whose label has a probability of at most P, and of the valid ones at least the
            hardest `LEAST_SHARE`.

    Returns:
        bool (N, H, W). A pixel whose hardness is not a number is hard.
    """
    kind, number = _parsed(ohem)
    share = number if kind == "fraction" else LEAST_SHARE
    wanted = (all_reduce_sum(valid.sum()).double() * share).round().clamp_min(1.0)
    hardness = hardness.clamp_min(0.0)  # rounding leaves it below 0 where the probability is 1
    limit = kth_largest(hardness.where(valid, -1.0), wanted)
    if kind == "threshold":
        limit = limit.clamp_max(-math.log(number))
    return ~(hardness < limit) & valid


def kth_largest(values: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of the values of all processes together, by bisection.

    Args:
        values: float32 or float64, of any shape; those below 0 do not take part.
        k: 0-dimensional, on the same device.

    Returns:
        0-dimensional, of the values' dtype; 0 where there are fewer than k.
    """
    # Bits of positive floating-point numbers, read as integers, have the order of the numbers.
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[values.dtype]
    infinity = torch.full((), math.inf, dtype=values.dtype, device=values.device)
    low, high = torch.zeros((), dtype=torch.int64, device=values.device), infinity.view(bits).long()
    for _ in range(torch.iinfo(bits).bits - 1):
        middle = low + (high - low + 1) // 2
        enough = all_reduce_sum((values >= middle.to(bits).view(values.dtype)).sum()) >= k
        low, high = middle.where(enough, low), high.where(enough, middle - 1)
    return low.to(bits).view(values.dtype)


def _parsed(text: str) -> tuple[str, float]:
    kind, _, word = str(text).partition(":")
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    expected = "fraction:F or threshold:P with a number above 0 and below 1, such as fraction:0.25 or threshold:0.7"
    require(kind in ("fraction", "threshold") and 0 < number < 1, "--ohem", text, expected)
    return kind, number
