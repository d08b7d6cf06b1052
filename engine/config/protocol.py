"""How images are predicted, as one value: whole or in windows, at which scales, with or without mirror images."""

from dataclasses import dataclass

# (model, data set) -> crop and stride of its published evaluation, where that is not whole images
PUBLISHED_WINDOWS = {("segformer", "citys"): ((1024, 1024), (1024, 1024))}


@dataclass(frozen=True)
class Protocol:
    """A way to predict an image.

    Attributes:
        crop: (height, width) of a window, or None for whole images.
        stride: (down, right) from one window to the next, at most `crop`; None where `crop` is.
        window_batch: windows that go through the network together.
        scales: logits are averaged over these factors on height and width.
        flip: and over each scale's mirror image.
    """

    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    window_batch: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __str__(self) -> str:
        parts = ["whole images"]
        if self.crop is not None:
            parts = ["windows of {}x{} every {}x{} pixels".format(*self.crop, *self.stride)]
        one = len(self.scales) == 1
        parts.append(f"scale{'' if one else 's'} " + ", ".join(f"{scale:g}" for scale in self.scales))
        return ", ".join(parts) + (", with mirror images" if self.flip else ", no mirror images")


def default_protocol(model: str, dataset: str) -> Protocol:
    """The published evaluation of a network on a data set.

    Whole images, but for SegFormer on Cityscapes: its attention is computed in two halves of 1024x1024.

    Args:
        model, dataset: the registries' names.
    """
    crop, stride = PUBLISHED_WINDOWS.get((model, dataset), (None, None))
    return Protocol(crop, stride)
