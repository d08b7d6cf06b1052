"""From what masks hold, values or colours, to train ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

VOID = 255  # train id of pixels that count nowhere
ILLEGAL = 254  # entry of the tables for what a mask must not hold
UNSEEN = 253  # entry of the table of colours for those that it was not asked about
MAX_CLASSES = 253
MAX_VALUE = 2**16 - 1
SHOWN = 10
ROWS = 16  # of a coloured mask, read at a time, so that what is computed stays in the processor's cache

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabelMap:
    """Which train id each value and each colour of a mask stands for.

    Attributes:
        classes: names, by train id.
        values: mask value -> train id, 255 for void. Masks of one channel hold values.
        colors: (r, g, b) -> train id; coloured masks are read by them. Empty where no class has a colour.
        tolerance: a value or colour that is none of these, but whose channels differ from the nearest one's by at most
            this, is read as that one.
        implied_void: 255 is void because nothing says otherwise.
    """

    classes: Sequence[str]
    values: Mapping[int, int]
    colors: Mapping[Color, int]
    tolerance: int = 0
    implied_void: bool = True

    @cached_property
    def table(self) -> np.ndarray:
        """Train id of every mask value, uint8 (256,) or longer where larger values are classes."""
        table = np.full(max(256, max(self.values) + 1), ILLEGAL, dtype=np.uint8)
        known = np.array(sorted(self.values))
        ids = np.array([self.values[value] for value in known.tolist()], dtype=np.uint8)
        if self.tolerance:
            distance = np.abs(np.arange(len(table))[:, None] - known)
            near = distance.min(axis=1) <= self.tolerance
            table[near] = ids[distance.argmin(axis=1)][near]
        table[known] = ids
        return table

    @cached_property
    def _color_table(self) -> np.ndarray:
        """Train id of every colour by its number in `_numbers`, uint8 (2^24,); filled as colours are met."""
        table = np.full(2**24, UNSEEN, dtype=np.uint8)
        for color, train_id in self.colors.items():
            table[color_number(color)] = train_id
        return table

    def train_ids(self, mask: np.ndarray, path: str) -> np.ndarray:
        """Train ids, uint8 (H, W), of a mask as it was decoded: integers (H, W), or colours, uint8 (H, W, 3).

        Colours are looked up; where that finds unknown ones, or no class has a colour, a mask with three equal channels
        is one of values.

        Raises:
            ValueError: it holds what is neither a class nor void; names `path`, the value or colour, the number of
                pixels and the nearest class.
        """
        if mask.ndim == 2:
            return self._by_value(mask, path)
        if self.colors:
            train_ids = self._by_color(mask)
            if not (train_ids == ILLEGAL).any():
                return train_ids
        if (mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all():
            return self._by_value(np.ascontiguousarray(mask[..., 0]), path)
        if not self.colors:
            raise ValueError(
                f"mask {path} is coloured, and no class has a colour to read it by: expected one channel with class "
                'numbers, or a line "name r g b" for each class in classes.txt'
            )
        raise ValueError(self._unknown_colors(mask[train_ids == ILLEGAL], path))

    def _by_value(self, mask: np.ndarray, path: str) -> np.ndarray:
        if mask.dtype == np.uint8:
            train_ids = cv2.LUT(mask, self.table[:256]).reshape(mask.shape)
            if not (train_ids == ILLEGAL).any():
                return train_ids
        elif mask.min() >= 0 and mask.max() < len(self.table):
            train_ids = self.table[mask]
            if not (train_ids == ILLEGAL).any():
                return train_ids
        raise ValueError(self._unknown_values(mask, path))

    def _by_color(self, mask: np.ndarray) -> np.ndarray:
        table, train_ids = self._color_table, np.empty(mask.shape[:2], dtype=np.uint8)
        for start in range(0, len(mask), ROWS):
            numbers, out = _numbers(mask[start : start + ROWS]), train_ids[start : start + ROWS]
            np.take(table, numbers, out=out, mode="clip")
            if (out == UNSEEN).any():
                new = np.unique(numbers[out == UNSEEN])
                table[new] = self._nearest(new)
                np.take(table, numbers, out=out, mode="clip")
        return train_ids

    def _nearest(self, numbers: np.ndarray) -> np.ndarray:
        """Train ids of colours that are none of the map's: of the nearest within the tolerance, else `ILLEGAL`."""
        known = np.array(list(self.colors), dtype=np.int16)
        ids = np.array(list(self.colors.values()), dtype=np.uint8)
        found = np.full(len(numbers), ILLEGAL, dtype=np.uint8)
        for start in range(0, len(numbers), 4096) if self.tolerance else ():
            part = np.stack([numbers[start : start + 4096] >> shift & 255 for shift in (16, 8, 0)], axis=1)
            distance = np.abs(part[:, None].astype(np.int16) - known).max(axis=2)
            near = distance.min(axis=1) <= self.tolerance
            found[start : start + 4096][near] = ids[distance.argmin(axis=1)][near]
        return found

    def _unknown_values(self, mask: np.ndarray, path: str) -> str:
        values, counts = np.unique(mask, return_counts=True)
        legal = [0 <= v < len(self.table) and self.table[v] != ILLEGAL for v in values.tolist()]
        bad, pixels = values[np.logical_not(legal)].tolist(), int(counts[np.logical_not(legal)].sum())
        nearest = min(self.values, key=lambda value: abs(value - bad[0]))
        return (
            f"mask {path} holds {len(bad)} value(s) that are no class: {_listed(bad)} ({pixels} pixels). Classes are "
            f"{ranges([v for v, i in self.values.items() if i != VOID])}, void is "
            f"{ranges([v for v, i in self.values.items() if i == VOID])}; the nearest to {bad[0]} is "
            f"{nearest}, {self._name(self.values[nearest])}. Give each class its value with --mask-values, or further "
            "ignored values with --void-values"
        )

    def _unknown_colors(self, pixels: np.ndarray, path: str) -> str:
        bad, counts = np.unique(pixels, axis=0, return_counts=True)
        colors = [tuple(map(int, color)) for color in bad[np.argsort(-counts)][:SHOWN]]
        nearest = min(self.colors, key=lambda own: _distance(own, colors[0]))
        distance = _distance(nearest, colors[0])
        hint = f", or --color-tolerance {distance} reads it as that one" if distance <= 64 else ""
        return (
            f"mask {path} holds {len(bad)} colour(s) that are no class: {_listed(colors, len(bad))} "
            f"({counts.sum()} pixels). The nearest to {colors[0]} is {nearest}, {self._name(self.colors[nearest])}. "
            f'Give it a line "name r g b" in classes.txt, or "void r g b = 255" if it marks ignored pixels{hint}'
        )

    def _name(self, train_id: int) -> str:
        return "void" if train_id == VOID else self.classes[train_id]


def values_of(mask: np.ndarray) -> dict[int, int]:
    """Value -> pixels of a mask with one channel, or with three that are equal; of a coloured one nothing."""
    if mask.ndim == 3:
        if (mask[..., :1] != mask).any():
            return {}
        mask = mask[..., 0]
    if mask.dtype != np.uint8:
        return dict(zip(*(part.tolist() for part in np.unique(mask, return_counts=True)), strict=True))
    counts = np.bincount(mask.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def color_number(color: Sequence[int]) -> int:
    """r * 65536 + g * 256 + b."""
    return color[0] << 16 | color[1] << 8 | color[2]


def _numbers(rows: np.ndarray) -> np.ndarray:
    """`color_number` of every pixel, uint32 (H, W), of some rows, uint8 (H, W, 3)."""
    four = np.ascontiguousarray(cv2.cvtColor(rows, cv2.COLOR_RGB2BGRA))
    return four.view("<u4")[..., 0] & 0xFFFFFF  # b + 256 g + 65536 r; the highest byte is alpha


def _distance(one: Color, other: Color) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _listed(values: Sequence, count: int | None = None) -> str:
    more = ", ..." if (count or len(values)) > SHOWN else ""
    return ", ".join(map(str, values[:SHOWN])) + more


def ranges(values: Sequence[int]) -> str:
    """ "0-10, 255" and the like."""
    ordered = np.array(sorted(values))
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs if len(run)) or "none"
