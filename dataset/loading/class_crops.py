"""Crops around pixels of rare classes."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from dataset.loading.transforms import CropWindow, scaled_length


class ClassCrops:
    """Moves the crops of a share of the samples to a pixel of a class, rare ones first.

    The class is drawn from those in the sample's mask with probabilities in proportion to 1 / n_c, with n_c the pixels
    of class c in the training split; the pixel is any of the class's in the mask. It is in the crop's centre, or as
    near to it as the edge of the image allows. (A pixel may be passed over where the mask is scaled down.)
    """

    def __init__(self, share: float, pixels: Sequence[int]) -> None:
        """Takes the share of the samples, from 0 to 1, and n_c of each class, by train id."""
        self.share = share
        self.weights = 1 / np.maximum(pixels, 1)

    def move(self, window: CropWindow, mask: np.ndarray, rng: np.random.Generator) -> CropWindow:
        """The window, moved or not; always the same number of draws. One of a mask without labels stays.

        Args:
            window: as drawn for the mask's size.
            mask: train ids, uint8 (H, W), read as a whole if its window moves.
            rng: the sample's generator.
        """
        moved, of_class, of_pixel = rng.random(3)
        if moved >= self.share:
            return window
        found = np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()[: len(self.weights)])
        if not len(found):
            return window
        bounds = self.weights[found].cumsum()
        label = found[min(np.searchsorted(bounds, of_class * bounds[-1], side="right"), len(found) - 1)]
        row, column = _pixel(mask == label, of_pixel)
        top = _start(row, window.height, window, mask.shape[0])
        return replace(window, top=top, left=_start(column, window.width, window, mask.shape[1]))


def _pixel(chosen: np.ndarray, fraction: float) -> tuple[int, int]:
    """(row, column) of one of the chosen pixels, bool (H, W): the one at this fraction, below 1, of their number."""
    ends = np.count_nonzero(chosen, axis=1).cumsum()
    number = int(fraction * ends[-1])
    row = int(np.searchsorted(ends, number, side="right"))
    before = int(ends[row - 1]) if row else 0
    return row, int(np.flatnonzero(chosen[row])[number - before])


def _start(place: int, length: int, window: CropWindow, source: int) -> int:
    """Where a window of this length begins that has a source pixel in its centre and is inside the scaled image."""
    centre = int((2 * place + 1) * window.scale / 2)
    return min(max(centre - length // 2, 0), scaled_length(source, window.scale) - length)
