"""Reading of coordinates from annotation files."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataset.convert.problems import BadObject

FARTHEST = 1e7  # pixels; no image is that large


def read_numbers(values: Any, what: str = "coordinates") -> np.ndarray:
    """Numbers of a file, float64.

    Raises:
        BadObject: they are no numbers, or not finite, or no places near an image.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadObject("what should be numbers is not", f"{what} {_shortened(values)}") from error
    if not (np.abs(numbers) <= FARTHEST).all():
        raise BadObject("coordinates that are in no image", f"{what} {_shortened(values)}")
    return numbers


def read_polygon(values: Any) -> np.ndarray:
    """Corners (x, y), float64 (N, 2), of [x, y, x, y, ...] or [[x, y], ...].

    Raises:
        BadObject: these are no three corners or more.
    """
    numbers = read_numbers(values)
    if numbers.ndim == 1 and len(numbers) % 2:
        raise BadObject("an odd number of coordinates", f"got {len(numbers)}, expected x, y, x, y, ...")
    if numbers.ndim not in (1, 2) or (numbers.ndim == 2 and numbers.shape[1] != 2):
        raise BadObject("what should be points is not", f"got {_shortened(values)}")
    points = numbers.reshape(-1, 2)
    if len(points) < 3:
        raise BadObject("a polygon of fewer than 3 points", f"got {len(points)}")
    return points


def read_points(values: Any, counts: Sequence[int], what: str) -> list[tuple[float, float]]:
    """The points of a shape that has a fixed number of them; BadObject where there are others."""
    numbers = read_numbers(values)
    if numbers.ndim != 2 or numbers.shape[1] != 2 or len(numbers) not in counts:
        expected = " or ".join(map(str, counts))
        raise BadObject(f"a {what} of other than {expected} points", f"got {_shortened(values)}")
    return [tuple(point) for point in numbers.tolist()]


def _shortened(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else text[:60] + "..."
