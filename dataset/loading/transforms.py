"""Training and evaluation transforms on uint8 arrays, and the normalisation that runs on the device.

Random scale, crop and flip are drawn first; then only the part of the source inside the crop is resized. The result
is that of resizing the whole image by the scale and cropping afterwards:

- images: bilinear with half-pixel centres, source coordinate (x + 1/2) / s - 1/2, no antialiasing. A scale s = p / q
  maps blocks of q source pixels to p output pixels with equal phase, so a window whose start is a multiple of q is
  resized by the ordinary `cv2.resize`, and the outcome differs from that of the whole image by rounding alone (at most
  one grey level, where the whole image's larger coordinates lose bits in float32).
- masks: the pixel that holds the same coordinate, floor((x + 1/2) / s), in exact integer arithmetic. Image and mask
  therefore stay aligned (`cv2.INTER_NEAREST` takes floor(x / s), up to half a pixel to the left).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

from dataset.loading.color import ColorChange

VOID = 255
PUBLISHED_SCALES = tuple(tenths / 10 for tenths in range(5, 21))  # 0.5, 0.6, ..., 2.0
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)


@dataclass(frozen=True)
class CropWindow:
    """The crop of one sample: a window of the image resized by `scale`.

    Attributes:
        scale: output size / source size.
        top, left: corner in the resized image, in its pixels.
        height, width: size of the window, which is inside the resized image.
        flip: mirrored left to right.
    """

    scale: Fraction
    top: int
    left: int
    height: int
    width: int
    flip: bool


class TrainTransform:
    """Random scale, random crop, padding right and below; half of the samples are mirrored."""

    def __init__(self, crop_size: tuple[int, int], scales: Sequence[float] = PUBLISHED_SCALES) -> None:
        """Sets the distribution; ValueError for a crop side below 1 or a scale that is not positive.

        Args:
            crop_size: (height, width) of every sample.
            scales: drawn with equal probability; each is taken as a fraction with a denominator of at most 100.
        """
        if min(crop_size) < 1:
            raise ValueError(f"crop size {crop_size[0]} x {crop_size[1]}: height and width must be at least 1")
        if not scales or not all(0 < scale < float("inf") for scale in scales):
            raise ValueError(f"scales {tuple(scales)}: expected one positive number or more")
        self.crop_size = crop_size
        self.scales = [Fraction(scale).limit_denominator(100) for scale in scales]
        if min(self.scales) == 0:
            raise ValueError(f"scales {tuple(scales)}: the smallest scale is 0.01")

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> CropWindow:
        """Draws the window for a source of `size` (height, width); always the same number of draws."""
        scale = self.scales[rng.integers(len(self.scales))]
        scaled = [scaled_length(length, scale) for length in size]
        # The crop is anywhere inside the scaled image; a side that is shorter than the crop is kept whole.
        height, width = map(min, scaled, self.crop_size)
        top, left = int(rng.integers(scaled[0] - height + 1)), int(rng.integers(scaled[1] - width + 1))
        return CropWindow(scale, top, left, height, width, flip=bool(rng.integers(2)))

    def apply(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        window: CropWindow,
        image_out: np.ndarray,
        mask_out: np.ndarray,
        color: ColorChange | None = None,
    ) -> None:
        """Writes the window, padded right and below with 0 and void.

        Args:
            image: uint8 (H, W, 3), or its first `rows_read` rows or more.
            mask: uint8 (H, W).
            window: as drawn for (H, W).
            image_out: uint8 (3, crop height, crop width).
            mask_out: uint8 (crop height, crop width).
            color: changes the image inside the window; the padding stays.
        """
        step = -1 if window.flip else 1
        height, width = window.height, window.width
        image_out[:, height:], image_out[:, :, width:] = 0, 0
        mask_out[height:], mask_out[:, width:] = VOID, VOID
        pixels = resized_window(image, window)
        pixels = pixels if color is None else color.apply(pixels)
        image_out[:, :height, :width] = pixels[:, ::step].transpose(2, 0, 1)
        rows = nearest_indices(window.top, height, window.scale, mask.shape[0])
        columns = nearest_indices(window.left, width, window.scale, mask.shape[1])[::step]
        # Cut first: the rest of a mask that is mapped from a file is not read.
        seen = mask[rows[0] : rows[-1] + 1, min(columns[0], columns[-1]) : max(columns[0], columns[-1]) + 1]
        mask_out[:height, :width] = seen[rows - rows[0]].take(columns - columns.min(), axis=1)


def scaled_length(length: int, scale: Fraction) -> int:
    """Length of a side after scaling: the exact product rounded half to even, and at least 1."""
    return max(1, round(length * scale))


def nearest_indices(start: int, count: int, scale: Fraction, length: int) -> np.ndarray:
    """Source index of each output position start .. start + count - 1: floor((x + 1/2) / scale)."""
    p, q = scale.numerator, scale.denominator
    return np.minimum((2 * np.arange(start, start + count) + 1) * q // (2 * p), length - 1)


def rows_read(window: CropWindow, height: int) -> int:
    """Number of rows, from the top of a source of this height, that `TrainTransform.apply` needs of the image."""
    if window.scale == 1:
        return window.top + window.height
    first, count, _ = _source_span(window.top, window.height, window.scale, height)
    return first + count


def resized_window(image: np.ndarray, window: CropWindow) -> np.ndarray:
    """The window (not flipped) of the image resized by the window's scale; reads and resizes only this part.

    Args:
        image: uint8 (H, W, C), or its first `rows_read` rows or more.
        window: a window inside the resized image.

    Returns:
        uint8 (window.height, window.width, C).
    """
    if window.scale == 1:
        return image[window.top : window.top + window.height, window.left : window.left + window.width]
    row, rows, top = _source_span(window.top, window.height, window.scale, image.shape[0])
    column, columns, left = _source_span(window.left, window.width, window.scale, image.shape[1])
    source = image[row : row + rows, column : column + columns]
    factor = float(window.scale)
    short = [
        _source_length(count, factor, end) - count
        for count, end in ((rows, top + window.height), (columns, left + window.width))
    ]
    if any(short):
        source = cv2.copyMakeBorder(source, 0, short[0], 0, short[1], borderType=cv2.BORDER_REPLICATE)
    resized = cv2.resize(source, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return resized[top : top + window.height, left : left + window.width]


def _source_span(start: int, count: int, scale: Fraction, length: int) -> tuple[int, int, int]:
    """(first source pixel, number of source pixels, offset of the window in their resized image) along one side.

    Starts and ends are multiples of twice the denominator: of the denominator for equal phase, of an even number of
    periods so that rounding half to even treats the rest of the side as it treats the whole.
    """
    p, q = scale.numerator, scale.denominator
    block = 2 * q
    first = max(0, ((2 * start + 1) * q - p) // (2 * p)) // block * block  # floor of the first source coordinate
    last = ((2 * (start + count) - 1) * q - p) // (2 * p) + 1  # right neighbour of the last one
    end = min(length, (last // block + 1) * block)
    return first, end - first, start - first * p // q


def _source_length(length: int, factor: float, end: int) -> int:
    """The least length from `length` on that `cv2.resize` makes at least `end` long; the edge is repeated up to it.

    It rounds the product of floating-point numbers, which can be one less than `scaled_length` (365 x 0.7, where the
    exact product ends in a half) or 0.
    """
    while round(length * factor) < end:
        length += 1
    return length


@cache
def _mean_on(device: torch.device) -> Tensor:
    # Cached on the device: building it in every step would copy from the host and wait.
    return torch.tensor(BGR_MEAN, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def normalize(images: Tensor, valid_size: Tensor | None = None) -> Tensor:
    """Turns a batch into what the networks share: BGR, float32, minus the mean, not divided; padding is exactly 0.

    Runs on the device of `images`, without waiting for it.

    Args:
        images: RGB, uint8 (N, 3, H, W).
        valid_size: (height, width) of the part that is image, int64 (N, 2), on any device; None: all of it.

    Returns:
        float32 (N, 3, H, W).
    """
    result = images.flip(1).to(torch.float32).sub_(_mean_on(images.device))
    if valid_size is None:
        return result
    size = valid_size.to(images.device, non_blocking=True)
    rows = torch.arange(images.shape[2], device=images.device) < size[:, :1]  # N, H
    columns = torch.arange(images.shape[3], device=images.device) < size[:, 1:]  # N, W
    return result.mul_(rows[:, None, :, None] & columns[:, None, None, :])
