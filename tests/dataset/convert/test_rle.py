"""Run-length codes: decoding is the inverse of an encoder that is written here."""

import numpy as np
import pytest

from dataset.convert.rle import decode_runs, decode_string


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of the runs down the columns, outside first."""
    runs, value = [0], 0
    for pixel in mask.T.ravel().astype(int).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def encode(runs: list[int]) -> str:
    """COCO's compressed counts, as its reference implementation writes them."""
    text = ""
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        while True:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)
            text += chr(48 + group + 32 * more)
            if not more:
                break
    return text


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.97, 1])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 90), (300, 41)])
def test_a_mask_comes_back(size, share):
    mask = np.random.default_rng(size[0]).random(size) < share
    runs = runs_of(mask)
    assert decode_string(encode(runs)) == runs
    np.testing.assert_array_equal(decode_runs(runs, size), mask)


def test_runs_of_every_length_come_back():
    rng = np.random.default_rng(0)
    runs = [int(2 ** rng.uniform(0, 31)) for _ in range(2000)] + [0, 0, 0, 15, 16, 31, 32, 2**31, 1]
    assert decode_string(encode(runs)) == runs
    assert decode_string("9") == [9] and decode_string("P1") == [32] and decode_string("111") == [1, 1, 1]


def test_the_order_of_pixels():
    down = [[False, True], [True, False], [True, False]]
    np.testing.assert_array_equal(decode_runs([1, 3, 2], (3, 2)), down)
    along = [[False, True], [True, True], [False, False]]
    np.testing.assert_array_equal(decode_runs([1, 3, 2], (3, 2), by_columns=False), along)


@pytest.mark.parametrize(
    "runs, message",
    [
        ([3, 4], r"the runs cover 7 pixels: expected 6, 2x3"),
        ([-1, 7], "whole numbers of at least 0"),
        ([1.5, 4.5], "whole numbers of at least 0"),
        ([], "whole numbers of at least 0"),
        ([2**80, 1], "whole numbers of at least 0"),
    ],
)
def test_wrong_runs(runs, message):
    with pytest.raises(ValueError, match=message):
        decode_runs(runs, (3, 2))


def test_damaged_strings():
    with pytest.raises(ValueError, match="ends within a number"):
        decode_string("9P")
    with pytest.raises(ValueError, match="'é' is no character"):
        decode_string("9é")
