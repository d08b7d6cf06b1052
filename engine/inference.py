"""Ways to predict an image: (network, images) -> logits at image size."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, the resampling of all logits; a no-op where the size already is `size`."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def whole_image(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of whole images.

    Args:
        network: in evaluation mode, returns a `SegOutput`.
        images: (N, 3, H, W) in the convention of the loaders' `normalize`.

    Returns:
        (N, K, H, W) float32.
    """
    logits = network(images, need_aux=False).logits.float()  # (N, K, h, w)
    return resize(logits, images.shape[-2:])


def multi_scale(network: nn.Module, images: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False) -> Tensor:
    """Logits (not probabilities) averaged over scales and, with `flip`, over each scale's mirror image.

    Args:
        network, images: as in `whole_image`.
        scales: factors on height and width.
        flip: also predict the mirrored image.

    Returns:
        (N, K, H, W) float32.
    """
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        scaled_size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        scaled = images
        if scaled_size != tuple(size):
            scaled = F.interpolate(images, size=scaled_size, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            view = scaled.flip(-1) if mirrored else scaled
            logits = network(view, need_aux=False).logits.float()
            logits = resize(logits.flip(-1) if mirrored else logits, size)
            total = logits if total is None else total + logits
    assert total is not None, "no scale given"
    return total / (len(scales) * (2 if flip else 1))
