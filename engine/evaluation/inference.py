"""Ways to predict an image: (network, images) -> logits at image size."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config.protocol import Protocol
from engine.evaluation.windows import Grid, WindowScores, resize

# (network, images (N, 3, h, w), size (H, W)) -> logits (N, K, H, W), float32
View = Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]


def build_predictor(protocol: Protocol) -> Callable[[nn.Module, Tensor], Tensor]:
    """The function (network, images) -> logits at image size that `evaluate` takes."""
    view: View = whole_image
    if protocol.crop is not None:
        windows = {"crop": protocol.crop, "stride": protocol.stride, "window_batch": protocol.window_batch}
        view = partial(sliding_window, **windows)
    return partial(multi_scale, scales=protocol.scales, flip=protocol.flip, view=view)


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
    grid = Grid.over(images.shape[-2:], crop, stride)
    outputs = window_outputs(network, lambda top, left: cut(images, grid, top, left), grid, window_batch)
    return WindowScores(grid, outputs, network.output_stride).at(size or tuple(images.shape[-2:]))


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
    for scaled_size in Protocol(scales=scales).sizes(size):
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


def window_outputs(
    network: nn.Module, window: Callable[[int, int], Tensor], grid: Grid, window_batch: int
) -> Iterator[Tensor]:
    """Logits (N, K, h, w) of one window after the other, in the order of `grid.boxes`.

    Args:
        network: as in `whole_image`.
        window: (top, left) of a window -> its image (N, 3, *grid.window).
        grid: where they lie.
        window_batch: windows that go through the network together.
    """
    boxes = grid.boxes
    for begin in range(0, len(boxes), window_batch):
        crops = [window(top, left) for top, left in boxes[begin : begin + window_batch]]
        together = crops[0].contiguous() if len(crops) == 1 else torch.cat(crops)
        yield from _logits(network, together).chunk(len(crops))


def cut(images: Tensor, grid: Grid, top: int, left: int) -> Tensor:
    """A window of images (N, 3, *grid.size)."""
    return images[..., top : top + grid.window[0], left : left + grid.window[1]]
