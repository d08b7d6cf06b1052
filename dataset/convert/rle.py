"""Run-length codes of binary masks: COCO's, plain and compressed, and CVAT's."""

from collections.abc import Sequence

import numpy as np

_FIRST = 48  # "0": the character of six zero bits


def decode_string(text: str) -> list[int]:
    """The runs of COCO's compressed counts.

    A run is written in groups of five bits, the lowest first, each as the character 48 + group, plus 32 if another
    follows; the highest bit of the last group is the sign. From the fourth run on, the difference to the run two before
    is written.

    Raises:
        ValueError: a character is none of these, or the last run is cut off.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - _FIRST
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} is no character of a compressed run-length code")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("a compressed run-length code ends within a number")
    return runs


def decode_runs(runs: Sequence[int], size: tuple[int, int], by_columns: bool = True) -> np.ndarray:
    """The mask of alternating runs of pixels outside and inside, outside first.

    Args:
        runs: lengths.
        size: (height, width).
        by_columns: pixels run down the columns, as COCO counts; False: along the rows, as CVAT does.

    Returns:
        bool (height, width).

    Raises:
        ValueError: a run is negative or no whole number, or together they are not height x width.
    """
    lengths = np.asarray(runs)
    if lengths.ndim != 1 or not len(lengths) or lengths.dtype.kind not in "iu" or lengths.min() < 0:
        raise ValueError("runs have to be whole numbers of at least 0")
    height, width = size
    if lengths.sum() != height * width:
        raise ValueError(f"the runs cover {lengths.sum()} pixels: expected {width * height}, {width}x{height}")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(width, height).T if by_columns else inside.reshape(height, width)
