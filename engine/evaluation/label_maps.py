"""The label map of one image of any size, in little memory: what prediction without labels needs.

The labels are those of the largest of `build_predictor`'s logits, of which an image has K a pixel: 1.8 GB for 19
classes and 24 million pixels. Here windows are kept as they leave the network, and their scores at the image's size are
made for some rows and classes at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.loading.transforms import normalize
from engine.config.protocol import Protocol
from engine.evaluation.evaluator import KernelTuning, evaluation_mode
from engine.evaluation.inference import cut, window_outputs
from engine.evaluation.windows import Grid, WindowScores
from utils.amp import autocast

PART_BYTES = 2**25  # of the scores that are made at a time


@dataclass(frozen=True)
class View:
    """An image at one scale, as it is or mirrored."""

    scores: WindowScores
    mirrored: bool

    def has_rows(self, size: tuple[int, int]) -> bool:
        """Whether rows of an image of `size` need no more than the windows that they lie in."""
        return self.scores.grid.size == size and not self.scores.joined

    def pixels(self, top: int, bottom: int, size: tuple[int, int]) -> int:
        """How many numbers a class needs while `rows` works."""
        made = self.scores.grid.window if self.has_rows(size) else self.scores.grid.size
        return (bottom - top) * size[1] + made[0] * made[1]

    def rows(self, top: int, bottom: int, classes: slice, size: tuple[int, int]) -> Tensor:
        """The scores (1, k, bottom - top, W) of some classes and rows; of all rows unless `self.has_rows`."""
        logits = self.scores.of_rows(top, bottom, classes) if self.has_rows(size) else self.scores.at(size, classes)
        return logits.flip(-1) if self.mirrored else logits


def predict_labels(network: nn.Module, image: Tensor, protocol: Protocol, device: torch.device) -> Tensor:
    """The class of every pixel of an image, some rows after the others where its windows are averaged at its own size.

    Args:
        network: in evaluation mode and on `device`; returns a `SegOutput`.
        image: RGB, uint8 (3, H, W), on any device.
        protocol: how it is predicted.
        device: where to compute.

    Returns:
        uint8 (H, W), on the CPU.
    """
    size = tuple(image.shape[-2:])
    grids = [Grid.over(scaled, *protocol.windows(scaled)) for scaled in protocol.sizes(size)]
    banded = all(grid.size == size and not grid.joined(network.output_stride) for grid in grids)
    views: list[View] = []
    for grid in grids:
        window = _windows_of(image, grid, device)
        for mirrored in (False, True) if protocol.flip else (False,):
            taken = _mirrored(window, grid) if mirrored else window
            outputs = window_outputs(network, taken, grid, protocol.window_batch)
            views.append(View(WindowScores(grid, outputs, network.output_stride), mirrored))
            if not banded:
                views[-1].scores.take_all()  # so that the scaled image is needed no longer
    del window, taken
    labels = torch.empty(size, dtype=torch.uint8)
    edges = (*grids[0].tops, size[0]) if banded else (0, size[0])
    for top, bottom in pairwise(edges):
        labels[top:bottom] = _best_classes(views, top, bottom, size)
        for view in views:
            view.scores.forget_above(bottom)
    return labels


def _best_classes(views: list[View], top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Labels (bottom - top, W) of some rows, some classes after the others."""
    count = views[0].scores.num_classes
    step = _step(count, PART_BYTES // (4 * max(view.pixels(top, bottom, size) for view in views)))
    best = labels = None
    for start in range(0, count, step):
        total = None
        for view in views:
            logits = view.rows(top, bottom, slice(start, start + step), size)
            total = logits if total is None else total.add_(logits)
        if len(views) > 1:
            total = total.div_(len(views))
        for number, scores in enumerate(total[0], start):
            if best is None:
                best, labels = scores.clone(), torch.zeros_like(scores, dtype=torch.uint8)
            else:  # of equal scores the first class's
                labels.masked_fill_(scores > best, number)
                torch.maximum(best, scores, out=best)
    return labels


def _step(count: int, fitting: int) -> int:
    """How many of `count` classes are taken at a time where about `fitting` should be.

    Never 3 of more: torch's bilinear kernel rounds three channels in another way than other numbers of them.
    """
    step = count if count <= 4 else max(1, fitting)
    while step < count and 3 in (step, count % step):
        step -= 1
    return step


def _windows_of(image: Tensor, grid: Grid, device: torch.device) -> Callable[[int, int], Tensor]:
    """(top, left) -> that window of the image at the grid's size, normalised, (1, 3, *grid.window)."""
    images = image[None]
    if tuple(image.shape[-2:]) == grid.size:
        return lambda top, left: normalize(cut(images, grid, top, left).to(device))
    scaled = F.interpolate(normalize(images.to(device)), size=grid.size, mode="bilinear", align_corners=False)
    return lambda top, left: cut(scaled, grid, top, left)


def _mirrored(window: Callable[[int, int], Tensor], grid: Grid) -> Callable[[int, int], Tensor]:
    """The same of the mirror image."""
    return lambda top, left: window(top, grid.size[1] - grid.window[1] - left).flip(-1)


@contextmanager
def labelling(
    network: nn.Module, protocol: Protocol, device: torch.device, amp: str = "off"
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, the network is in evaluation mode, and the function labels images one after the other.

    Args:
        network, protocol, device: as for `predict_labels`.
        amp: "off", "bf16" or "fp16".

    Yields:
        RGB image, uint8 (3, H, W) -> labels, uint8 (H, W) on the CPU.
    """
    with evaluation_mode(network), KernelTuning() as tuning:

        @torch.no_grad()
        def label(image: Tensor) -> Tensor:
            tuning.note(image.shape)
            with autocast(device, amp):
                return predict_labels(network, image, protocol, device)

        yield label
