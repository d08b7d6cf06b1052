"""An image in windows: where they lie, and the image's scores from theirs, in parts where the whole is too large."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height, width
ALL = slice(None)


def resize(images: Tensor, size: Size) -> Tensor:
    """Bilinear with aligned corners, the resampling of all logits; a no-op where the size already is `size`."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


@dataclass(frozen=True)
class Grid:
    """Windows that cover every pixel of an image.

    Attributes:
        size: of the image.
        window: of each window.
        tops, lefts: first rows and columns; ascending, the last window ends at the edge.
    """

    size: Size
    window: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def over(cls, size: Size, crop: Size | None = None, stride: Size | None = None) -> "Grid":
        """Windows of `crop` every `stride` pixels; one that would reach over the edge is moved back, one larger than
        the image cut to it. Without `crop` one window is the image."""
        size = tuple(size)
        if crop is None:
            return cls(size, size, (0,), (0,))
        window = min(crop[0], size[0]), min(crop[1], size[1])
        tops, lefts = (_starts(*side) for side in zip(size, window, stride, strict=True))
        return cls(size, window, tops, lefts)

    @property
    def boxes(self) -> list[tuple[int, int]]:
        """(top, left) of every window, row by row."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def joined(self, output_stride: int) -> bool:
        """Whether the windows lie side by side, and what leaves the network can be laid so too."""
        covered = len(self.tops) * self.window[0], len(self.lefts) * self.window[1]
        one = len(self.tops) == len(self.lefts) == 1
        return one or (covered == self.size and all(side % output_stride == 0 for side in self.window))


class WindowScores:
    """The scores of an image from those of its windows, for any rows and classes.

    Joined windows are laid side by side as they left the network, and resized once. Otherwise each one is resized to
    the window, and averaged with those that overlap it.

    Args:
        grid: where the windows lie.
        outputs: of each window in the order of `grid.boxes`, logits (N, K, h, w); taken when they are needed.
        output_stride: of the network.
    """

    def __init__(self, grid: Grid, outputs: Iterator[Tensor], output_stride: int) -> None:
        self.grid, self.joined = grid, grid.joined(output_stride)
        self._outputs, self._taken = outputs, 0
        self._rows: dict[int, list[Tensor]] = {}  # row of windows -> their outputs

    @property
    def num_classes(self) -> int:
        """K."""
        self._take(1)
        return self._num_classes

    def at(self, size: Size, classes: slice = ALL) -> Tensor:
        """The scores of some classes, resized to `size`: (N, k, *size)."""
        self.take_all()
        if not self.joined:
            return resize(self.of_rows(0, self.grid.size[0], classes), size)
        rows = [torch.cat([output[:, classes] for output in row], dim=-1) for row in self._rows.values()]
        return resize(torch.cat(rows, dim=-2), size)

    def of_rows(self, top: int, bottom: int, classes: slice = ALL) -> Tensor:
        """The scores (N, k, bottom - top, W) of some classes and rows, averaged over windows."""
        (height, width), window = self.grid.window, self.grid.window
        total: Tensor | None = None
        for index, start in enumerate(self.grid.tops):
            first, last = max(top, start), min(bottom, start + height)
            if first >= last:
                continue
            self._take(index + 1)
            for left, output in zip(self.grid.lefts, self._rows[index], strict=True):
                logits = output[:, classes]
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], bottom - top, self.grid.size[1])
                part = resize(logits, window)[..., first - start : last - start, :]
                total[..., first - top : last - top, left : left + width] += part
        rows = _cover(self.grid.tops, height, self.grid.size[0], total)[top:bottom]
        return total.div_(rows[:, None] * _cover(self.grid.lefts, width, self.grid.size[1], total))

    def forget_above(self, row: int) -> None:
        """Frees the outputs of windows that end above this row of the image."""
        for index in [k for k in self._rows if self.grid.tops[k] + self.grid.window[0] <= row]:
            del self._rows[index]

    def take_all(self) -> None:
        """Computes the outputs of all windows."""
        self._take(len(self.grid.tops))

    def _take(self, rows: int) -> None:
        """Computes this many rows of windows, and what they were computed of is freed after the last one."""
        while self._taken < rows:
            self._rows[self._taken] = [next(self._outputs) for _ in self.grid.lefts]
            self._num_classes = self._rows[self._taken][0].shape[1]
            self._taken += 1
        if self._taken == len(self.grid.tops):
            self._outputs = iter(())


def _starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of windows that cover `length`; the last one ends at the edge."""
    steps = -(-(length - window) // stride)
    return tuple(min(step * stride, length - window) for step in range(steps + 1))


def _cover(starts: tuple[int, ...], window: int, length: int, like: Tensor) -> Tensor:
    """How many windows cover each position, (length,)."""
    count = torch.zeros(length, dtype=torch.float32, device=like.device)
    for start in starts:
        count[start : start + window] += 1
    return count
