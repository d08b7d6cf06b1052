"""What annotations draw: the pixels inside polygons, ellipses and bitmaps.

Coordinates are continuous: x to the right and y down, and the pixel in row r and column c covers r to r + 1 and c to
c + 1. A pixel is inside a shape if its centre, (c + 0.5, r + 0.5), is; of a centre on the outline, that on a left or
upper edge counts. So a box from (x0, y0) to (x1, y1) in whole numbers has the columns x0 to x1 - 1 and the rows y0 to
y1 - 1, and of two polygons with a common edge every pixel along it is in exactly one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

Size = tuple[int, int]  # height, width
Point = tuple[float, float]  # x, y


class Patch(NamedTuple):
    """Pixels of an image: those of `inside`, bool (h, w), whose first pixel is in this row and column."""

    top: int
    left: int
    inside: np.ndarray

    def paint(self, labels: np.ndarray, value: int) -> None:
        """Gives its pixels in `labels`, (H, W), a value."""
        height, width = self.inside.shape
        labels[self.top : self.top + height, self.left : self.left + width][self.inside] = value


class Shape(Protocol):
    """Anything with an inside."""

    def patch(self, size: Size) -> Patch:
        """Its pixels within an image of (height, width); none where it lies outside."""


class Polygons(NamedTuple):
    """The union of polygons, float64 (N, 2) each; where one crosses itself, what is enclosed twice is outside."""

    parts: Sequence[np.ndarray]

    def patch(self, size: Size) -> Patch:
        """See `Shape`."""
        patches = [fill_polygon(part, size) for part in self.parts]
        patches = [patch for patch in patches if patch.inside.size] or [_nothing()]
        if len(patches) == 1:
            return patches[0]
        top, left = min(patch.top for patch in patches), min(patch.left for patch in patches)
        bottom = max(patch.top + patch.inside.shape[0] for patch in patches)
        right = max(patch.left + patch.inside.shape[1] for patch in patches)
        inside = np.zeros((bottom - top, right - left), dtype=bool)
        for patch in patches:
            patch._replace(top=patch.top - top, left=patch.left - left).paint(inside, True)
        return Patch(top, left, inside)


class Ellipse(NamedTuple):
    """An ellipse: centre, radii along its axes, and the angle in degrees by which it is turned clockwise."""

    center: Point
    radii: Point
    angle: float = 0.0

    def patch(self, size: Size) -> Patch:
        """See `Shape`."""
        (x, y), (rx, ry) = self.center, self.radii
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        reach_x, reach_y = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        left, right = (min(max(math.floor(v), 0), size[1]) for v in (x - reach_x, x + reach_x + 1))
        top, bottom = (min(max(math.floor(v), 0), size[0]) for v in (y - reach_y, y + reach_y + 1))
        if right <= left or bottom <= top or min(rx, ry) <= 0:
            return _nothing()
        dx = np.arange(left, right) + 0.5 - x
        dy = np.arange(top, bottom)[:, None] + 0.5 - y
        inside = ((dx * cos + dy * sin) / rx) ** 2 + ((dy * cos - dx * sin) / ry) ** 2 < 1
        return Patch(top, left, inside)


class Bitmap(NamedTuple):
    """Pixels themselves: bool (h, w), whose first pixel is in this row and column of the image."""

    top: int
    left: int
    pixels: np.ndarray

    def patch(self, size: Size) -> Patch:
        """See `Shape`."""
        top, left = max(self.top, 0), max(self.left, 0)
        rows = slice(top - self.top, max(size[0] - self.top, 0))
        columns = slice(left - self.left, max(size[1] - self.left, 0))
        return Patch(top, left, self.pixels[rows, columns])


def rectangle(one: Point, other: Point, angle: float = 0.0) -> Polygons:
    """The box between two opposite corners, turned clockwise about its centre by an angle in degrees."""
    corners = np.array([one, (other[0], one[1]), other, (one[0], other[1])], dtype=np.float64)
    if angle:
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        center = corners.mean(axis=0)
        corners = (corners - center) @ np.array([[cos, sin], [-sin, cos]]) + center
    return Polygons([corners])


def fill_polygon(points: np.ndarray, size: Size) -> Patch:
    """The pixels whose centres a polygon encloses, by the even-odd rule.

    Args:
        points: corners (x, y), float64 (N, 2); the last is joined to the first.
        size: (height, width) of the image.
    """
    ends = np.roll(points, -1, axis=0)
    # From the upper to the lower end, so that polygons on both sides of an edge compute the same crossings.
    upper = np.where((points[:, 1] <= ends[:, 1])[:, None], points, ends)
    lower = np.where((points[:, 1] <= ends[:, 1])[:, None], ends, points)
    first, behind = (_first_centre(edge[:, 1], size[0]) for edge in (upper, lower))
    counts = behind - first
    edges = np.repeat(np.arange(len(points)), counts)
    if not len(edges):
        return _nothing()
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    (x0, y0), (x1, y1) = upper[edges].T, lower[edges].T
    columns = _first_centre(x0 + (rows + 0.5 - y0) / (y1 - y0) * (x1 - x0), size[1])
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() - left
    crossings = np.bincount((rows - top) * (width + 1) + columns - left, minlength=height * (width + 1))
    odd = (crossings & 1).astype(bool).reshape(height, width + 1)  # each turns all pixels to its right
    return Patch(int(top), int(left), np.logical_xor.accumulate(odd, axis=1)[:, :-1])


def _first_centre(positions: np.ndarray, count: int) -> np.ndarray:
    """The first of `count` rows or columns whose centre is at or behind each position; `count` where there is none."""
    return np.ceil(positions - 0.5).clip(0, count).astype(np.int64)


def _nothing() -> Patch:
    return Patch(0, 0, np.zeros((0, 0), dtype=bool))
