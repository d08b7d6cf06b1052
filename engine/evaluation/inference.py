"""Ways to predict an image: (network, images) -> logits at image size."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config.protocol import Protocol

# (network, images (N, 3, h, w), size (H, W)) -> logits (N, K, H, W), float32
View = Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]


def build_predictor(protocol: Protocol) -> Callable[[nn.Module, Tensor], Tensor]:
    """The function (network, images) -> logits at image size that `evaluate` takes."""
    view: View = whole_image
    if protocol.crop is not None:
        windows = {"crop": protocol.crop, "stride": protocol.stride, "window_batch": protocol.window_batch}
        view = partial(sliding_window, **windows)
    return partial(multi_scale, scales=protocol.scales, flip=protocol.flip, view=view)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, the resampling of all logits; a no-op where the size already is `size`."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def whole_image(network: nn.Module, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Logits of whole images.

    Args:
        network: in evaluation mode, returns a `SegOutput`.
        images: (N, 3, H, W) in the convention of the loaders' `normalize`.
        size: of the logits; the images' own by default.

    Returns:
        (N, K, *size) float32.
    """
    return resize(_logits(network, images), size or tuple(images.shape[-2:]))


def sliding_window(
    network: nn.Module,
    images: Tensor,
    size: tuple[int, int] | None = None,
    *,
    crop: tuple[int, int],
    stride: tuple[int, int],
    window_batch: int = 1,
) -> Tensor:
    """Logits assembled from windows that cover every pixel.

    Windows side by side, without overlap, and whose sides are multiples of the network's output stride are
    joined as they leave the network, and resized once: the published evaluation of SegFormer on Cityscapes in two
    halves. Otherwise each window's logits are resized to the window and averaged where windows overlap. A window that
    would reach over the edge is moved back; one larger than the image is cut to it.

    Args:
        network: as in `whole_image`, with its `output_stride`.
        images, size: as in `whole_image`.
        crop: (height, width) of a window.
        stride: (down, right) from one window to the next; at most `crop`.
        window_batch: windows that go through the network together.

    Returns:
        (N, K, *size) float32.
    """
    size = size or tuple(images.shape[-2:])
    height, width = images.shape[-2:]
    window = (min(crop[0], height), min(crop[1], width))
    tops, lefts = _starts(height, window[0], stride[0]), _starts(width, window[1], stride[1])
    boxes = [(top, left) for top in tops for left in lefts]
    if len(boxes) == 1:
        return whole_image(network, images, size)
    outputs = _windows(network, images, boxes, window, window_batch)
    tiled = len(tops) * window[0] == height and len(lefts) * window[1] == width
    if tiled and all(side % network.output_stride == 0 for side in window):
        tiles = list(outputs)
        rows = [torch.cat(tiles[i : i + len(lefts)], dim=-1) for i in range(0, len(tiles), len(lefts))]
        return resize(torch.cat(rows, dim=-2), size)
    total: Tensor | None = None
    for (top, left), logits in zip(boxes, outputs, strict=True):
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        total[..., top : top + window[0], left : left + window[1]] += resize(logits, window)
    count = _cover(tops, window[0], height, images)[:, None] * _cover(lefts, window[1], width, images)
    return resize(total / count, size)


def multi_scale(
    network: nn.Module,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    view: View = whole_image,
) -> Tensor:
    """Logits (not probabilities) averaged over scales and, with `flip`, over each scale's mirror image.

    Args:
        network, images: as in `whole_image`.
        scales: factors on height and width.
        flip: also predict the mirrored image.
        view: predicts one scaled and possibly mirrored image.

    Returns:
        (N, K, H, W) float32.
    """
    size = tuple(images.shape[-2:])
    total: Tensor | None = None
    for scale in scales:
        scaled_size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        scaled = images
        if scaled_size != size:
            scaled = F.interpolate(images, size=scaled_size, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            logits = view(network, scaled.flip(-1) if mirrored else scaled, size)
            logits = logits.flip(-1) if mirrored else logits
            total = logits if total is None else total + logits
    assert total is not None, "no scale given"
    return total / (len(scales) * (2 if flip else 1))


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return network(images, need_aux=False).logits.float()  # N, K, h, w


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of windows that cover `length`; the last one ends at the edge."""
    steps = -(-(length - window) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def _windows(
    network: nn.Module, images: Tensor, boxes: list[tuple[int, int]], window: tuple[int, int], window_batch: int
) -> Iterator[Tensor]:
    """Logits (N, K, h, w) of one window after the other."""
    for begin in range(0, len(boxes), window_batch):
        batch = boxes[begin : begin + window_batch]
        crops = [images[..., top : top + window[0], left : left + window[1]] for top, left in batch]
        yield from _logits(network, torch.cat(crops)).chunk(len(batch))


def _cover(starts: list[int], window: int, length: int, like: Tensor) -> Tensor:
    """How many windows cover each position, (length,)."""
    count = torch.zeros(length, dtype=torch.float32, device=like.device)
    for start in starts:
        count[start : start + window] += 1
    return count
