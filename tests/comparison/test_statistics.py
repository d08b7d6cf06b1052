"""Spread, paired differences and reading of curves, by hand."""

import pytest

from comparison.statistics import difference_by_position, last_at, paired_difference, spread


@pytest.mark.parametrize(
    "values, mean, std", [([0.2, 0.4, 0.9], 0.5, 0.13**0.5), ([0.25], 0.25, None), ([], None, None)]
)
def test_spread_by_hand(values, mean, std):
    assert spread(values) == {"n": len(values), "mean": pytest.approx(mean), "std": pytest.approx(std)}


def test_differences_are_paired_by_seed():
    found = paired_difference({0: 0.5, 1: 0.9, 2: 0.7}, {1: 0.5, 0: 0.3, 3: 0.1})
    assert found["per_seed"] == {0: pytest.approx(0.2), 1: pytest.approx(0.4)}
    assert (found["n"], found["mean"], found["std"]) == (2, pytest.approx(0.3), pytest.approx(0.02**0.5))
    # Student's t of one degree of freedom is Cauchy's: tan(0.475 pi) = 12.706
    assert found["interval"] == [pytest.approx(0.3 - 12.7062 * 0.1), pytest.approx(0.3 + 12.7062 * 0.1)]
    assert paired_difference({0: 0.5}, {0: 0.4})["interval"] is None


def test_classes_that_do_not_occur_are_left_out():
    rows = {0: [0.5, None, 0.2, 0.1], 1: [0.7, None, None, 0.2], 2: [0.0, 0.0, 0.0, 0.0]}
    gains = difference_by_position(rows, {0: [0.4, 0.1, 0.1, None], 1: [0.4, 0.1, 0.1, None]})
    expected = [(2, pytest.approx(0.2)), (0, None), (1, pytest.approx(0.1)), (0, None)]
    assert [(figures["n"], figures["mean"]) for figures in gains] == expected


@pytest.mark.parametrize("limit, expected", [(0.9, None), (1.0, 10), (2.4, 20), (9.0, 30)])
def test_curve_is_read_at_the_last_point_within_the_limit(limit, expected):
    curve = [{"iteration": 10 * k, "train_seconds": float(k)} for k in (1, 2, 3)]
    point = last_at(curve, "train_seconds", limit)
    assert (point and point["iteration"]) == expected
