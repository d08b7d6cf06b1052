"""Random changes of brightness, contrast, saturation and hue, as torchvision's `ColorJitter` defines them.

OpenCV computes them: turning the hue of a 512x1024 crop takes 8 ms of one thread, torchvision's function 116 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

GREY = np.array([0.2989, 0.587, 0.114])  # share of red, green and blue


@dataclass(frozen=True)
class ColorChange:
    """What is done to one image.

    Attributes:
        brightness: factor of all values.
        contrast: factor of the difference from the image's mean grey.
        saturation: factor of the difference from the pixel's own grey.
        hue: what is added to it, as a part of the circle.
        order: in which these four, numbered from 0, are applied.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[int, ...] = (0, 1, 2, 3)

    @classmethod
    def draw(cls, strength: Sequence[float], rng: np.random.Generator) -> "ColorChange":
        """Draws evenly from what the four strengths allow, in a random order; always the same number of draws."""
        *factors, hue = (rng.uniform(-1, 1, 4) * strength).tolist()
        return cls(*(1 + factor for factor in factors), hue, tuple(rng.permutation(4).tolist()))

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The changed image, each step rounded; what is not changed keeps its values.

        Args:
            image: RGB, uint8 (H, W, 3).

        Returns:
            uint8 (H, W, 3), the image itself where nothing is changed.
        """
        steps = (
            (_brightness, self.brightness, 1.0),
            (_contrast, self.contrast, 1.0),
            (_saturation, self.saturation, 1.0),
            (_hue, self.hue, 0.0),
        )
        for place in self.order:
            change, amount, neutral = steps[place]
            if amount != neutral:
                image = change(image, amount)
        return image


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.LUT(image, _table(factor, 0.0))


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = float(GREY @ cv2.mean(image)[:3])
    return cv2.LUT(image, _table(factor, (1 - factor) * mean))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * np.tile(GREY, (3, 1)))


def _hue(image: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(np.multiply(image, np.float32(1 / 255), dtype=np.float32), cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0]  # in degrees
    hue += np.float32(360 * turn)
    hue -= np.float32(360) * (hue >= 360)
    hue += np.float32(360) * (hue < 0)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), alpha=255)


def _table(factor: float, offset: float) -> np.ndarray:
    return np.rint(np.arange(256) * factor + offset).clip(0, 255).astype(np.uint8)
