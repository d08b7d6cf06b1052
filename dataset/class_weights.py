"""Weights of the classes in the cross entropy: of the pixels of the training split, or of a file."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.label_counts import LabelCounts
from dataset.reading.files import read_text_lines
from utils.names import did_you_mean


def balanced(counts: LabelCounts) -> list[float]:
    """w_c = N / (K n_c), with N labelled pixels, n_c of them of class c, and K classes that occur.

    The mean of the labelled pixels' weights is 1, and each class has the same sum of weights (King and Zeng, Logistic
    Regression in Rare Events Data, 2001; "balanced" in scikit-learn). A class without a pixel has weight 0.
    """
    pixels = np.array(counts.pixels, dtype=np.float64)
    return _where_it_occurs(pixels.sum() / max((pixels > 0).sum(), 1), pixels)


def median_frequency(counts: LabelCounts) -> list[float]:
    """w_c = median of the f / f_c, with f_c the pixels of class c / the labelled pixels of the images with the class.

    Median frequency balancing (Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture, ICCV 2015); the median is over the classes that occur. A class without a
    pixel has weight 0.
    """
    pixels, of_images = (np.array(values, dtype=np.float64) for values in (counts.pixels, counts.image_pixels))
    frequencies = pixels / of_images.clip(min=1)
    found = frequencies[pixels > 0]
    return _where_it_occurs(np.median(found) if len(found) else 0.0, frequencies)


def _where_it_occurs(numerator: float, denominators: np.ndarray) -> list[float]:
    return [float(numerator / value) if value else 0.0 for value in denominators]


def read_class_weights(path: Path, classes: Sequence[str]) -> list[float]:
    """The weights in a text file: one a line in the order of the classes, or lines of a class's name and its weight.

    Args:
        path: of the file.
        classes: names, by train id.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line, a class or a number that cannot be used, named; a class is missing; all weights are 0.
    """
    if not path.is_file():
        hint = did_you_mean(str(path), ("balanced", "median"))
        raise FileNotFoundError(
            f"--class-weights {path}: there is no such file; expected balanced, median, or a file with a weight a "
            f"line.{hint}"
        )
    lines = read_text_lines(path, "a weight a line")
    named = not _is_number(lines[0][1])
    form = "a name and a weight" if named else "a weight alone"
    weights: dict[str | int, float] = {}  # by name, or by place
    for place, (number, line) in enumerate(lines):
        where = f"--class-weights {path}, line {number}"
        *words, value = line.split()
        name = " ".join(words) if named else classes[place] if place < len(classes) else ""
        if bool(words) != named or not _is_number(value):
            raise ValueError(f"{where}: expected {form}, as on line {lines[0][0]}, got {line!r}")
        if not named and place >= len(classes):
            raise ValueError(f"{where}: one weight more than the {len(classes)} classes")
        if name not in classes:
            raise ValueError(f"{where}: there is no class {name!r}.{did_you_mean(name, classes)}")
        if name in weights:
            raise ValueError(f"{where}: class {name!r} has a weight already")
        if not 0 <= float(value) < math.inf:
            raise ValueError(f"{where}: the weight of class {name!r} is {value}; expected a number of at least 0")
        weights[name if named else place] = float(value)
    keys = list(classes) if named else range(len(classes))
    if missing := [classes[place] for place, key in enumerate(keys) if key not in weights]:
        raise ValueError(
            f"--class-weights {path}: {len(missing)} of {len(classes)} classes have no weight, first {missing[0]!r}"
        )
    if not any(weights.values()):
        raise ValueError(f"--class-weights {path}: all weights are 0")
    return [weights[key] for key in keys]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
