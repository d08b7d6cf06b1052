"""Weights of the classes: the two formulas, and files of weights."""

from pathlib import Path

import numpy as np
import pytest

from dataset.class_weights import balanced, median_frequency, read_class_weights
from dataset.label_counts import LabelCounts

CLASSES = ["road", "traffic light", "sky", "car"]
COUNTS = LabelCounts(pixels=(600, 30, 0, 170), images=(9, 3, 0, 5), image_pixels=(800, 250, 0, 400))


def test_balanced_weights_give_each_class_the_same_sum_and_pixels_the_mean_1():
    weights = balanced(COUNTS)
    assert weights[2] == 0
    sums = [weight * count for weight, count in zip(weights, COUNTS.pixels, strict=True) if count]
    assert sums == pytest.approx([800 / 3] * 3) and sum(sums) / 800 == pytest.approx(1)


def test_median_frequency_balancing_is_the_formula():
    frequencies = {0: 600 / 800, 1: 30 / 250, 3: 170 / 400}
    expected = [np.median(list(frequencies.values())) / frequencies[c] if c in frequencies else 0 for c in range(4)]
    assert median_frequency(COUNTS) == pytest.approx(expected) and expected[3] == 1
    nothing = LabelCounts((0, 0), (0, 0), (0, 0))
    assert median_frequency(nothing) == balanced(nothing) == [0, 0]


@pytest.mark.parametrize(
    "text",
    ["1\n0.5\n0\n2e1\n", "\n car 20\ntraffic  light\t0.5\n\nsky 0.0\r\nroad 1\n"],
)
def test_weights_in_the_order_of_the_classes_or_by_name(tmp_path, text):
    (tmp_path / "weights.txt").write_text(text)
    assert read_class_weights(tmp_path / "weights.txt", CLASSES) == [1, 0.5, 0, 20]


def test_classes_of_one_name_share_its_weight(tmp_path):
    (tmp_path / "weights.txt").write_text("screen 2\nwall 1\n")
    assert read_class_weights(tmp_path / "weights.txt", ["screen", "wall", "screen"]) == [2, 1, 2]
    (tmp_path / "weights.txt").write_text("3\n1\n4\n")
    assert read_class_weights(tmp_path / "weights.txt", ["screen", "wall", "screen"]) == [3, 1, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "weights.txt is empty: expected a weight a line"),
        ("1\n2\n3\n", "1 of 4 classes have no weight, first 'car'"),
        ("1\n2\n3\n4\n5\n", "line 5: one weight more than the 4 classes"),
        ("1\n2\nsky 3\n4\n", "line 3: expected a weight alone, as on line 1, got 'sky 3'"),
        ("road 1\n\n2\n", "line 3: expected a name and a weight, as on line 1, got '2'"),
        ("road 1\nsky\n", "line 2: expected a name and a weight, as on line 1, got 'sky'"),
        ("road 1\ncars 2\n", "line 2: there is no class 'cars'. Did you mean car?"),
        ("road 1\nsky 1\nroad 2\n", "line 3: class 'road' has a weight already"),
        ("1\n-2\n3\n4\n", "line 2: the weight of class 'traffic light' is -2; expected a number of at least 0"),
        ("1\nnan\n3\n4\n", "line 2: the weight of class 'traffic light' is nan"),
        ("road inf\n", "line 1: the weight of class 'road' is inf"),
        ("0\n0\n0\n0\n", "all weights are 0"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, text, message):
    (tmp_path / "weights.txt").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_class_weights(tmp_path / "weights.txt", CLASSES)
    assert message in str(caught.value) and "weights.txt" in str(caught.value)


def test_a_mistyped_rule_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="--class-weights balancd: .* expected balanced, .* Did you mean balanced?"
    ):
        read_class_weights(Path("balancd"), CLASSES)
