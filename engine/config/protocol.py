"""How images are predicted, as one value: whole or in windows, at which scales, with or without mirror images."""

import math
from dataclasses import dataclass

# (model, data set) -> crop and stride of its published evaluation, where that is not whole images
PUBLISHED_WINDOWS = {("segformer", "citys"): ((1024, 1024), (1024, 1024))}
LARGEST_WINDOW, WINDOW_STEP = 1024, 32  # side of the windows of too large images, and what it is a multiple of


@dataclass(frozen=True)
class Protocol:
    """A way to predict an image.

    Attributes:
        crop: (height, width) of a window, or None for whole images.
        stride: (down, right) from one window to the next, at most `crop`; None where `crop` is.
        window_batch: windows that go through the network together.
        scales: logits are averaged over these factors on height and width.
        flip: and over each scale's mirror image.
        max_pixels: larger images, at each scale, are predicted in overlapping windows, where `crop` is None.
    """

    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    window_batch: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    max_pixels: int | None = None

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of an image of `size` at each scale."""
        return [tuple(max(1, round(side * scale)) for side in size) for scale in self.scales]

    def windows(self, size: tuple[int, int]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Crop and stride of an image of `size` at its scale; None for a whole one."""
        if self.crop is not None or self.max_pixels is None or size[0] * size[1] <= self.max_pixels:
            return self.crop, self.stride
        return self._windows_of_large()

    def _windows_of_large(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Squares of at most `max_pixels`, a quarter of whose side overlaps."""
        side = min(LARGEST_WINDOW, math.isqrt(self.max_pixels))
        side = max(1, side // WINDOW_STEP) * WINDOW_STEP
        return (side, side), (side - side // 4,) * 2

    def __str__(self) -> str:
        parts = ["whole images"]
        if self.crop is not None:
            parts = [_describe(self.crop, self.stride)]
        elif self.max_pixels is not None:
            parts.append(f"those of more than {self.max_pixels:,} pixels in {_describe(*self._windows_of_large())}")
        one = len(self.scales) == 1
        parts.append(f"scale{'' if one else 's'} " + ", ".join(f"{scale:g}" for scale in self.scales))
        return ", ".join(parts) + (", with mirror images" if self.flip else ", no mirror images")


def _describe(crop: tuple[int, int], stride: tuple[int, int]) -> str:
    return "windows of {}x{} every {}x{} pixels".format(*crop, *stride)


def default_protocol(model: str, dataset: str) -> Protocol:
    """The published evaluation of a network on a data set.

    Whole images, but for SegFormer on Cityscapes: its attention is computed in two halves of 1024x1024.

    Args:
        model, dataset: the registries' names.
    """
    crop, stride = PUBLISHED_WINDOWS.get((model, dataset), (None, None))
    return Protocol(crop, stride)
