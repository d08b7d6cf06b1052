"""IFVD against its formula, the stored values and the hard cases."""

import pytest
import torch

from losses.methods.ifvd import IFVD, variation_loss
from tests.losses import golden, plain
from tests.losses.distillers import (
    SIZES,
    assert_half_close,
    assert_matches,
    build,
    check_hard_cases,
    check_processes,
    make_batch,
)


def cosines(image, labels):
    """(C, h, w), (h, w) -> position -> cosine with its class's prototype; 1 where it is ignored."""
    rows, flat = image.flatten(1).T, labels.flatten().tolist()
    result = []
    for row, label in zip(rows, flat, strict=True):
        same = [other for other, its in zip(rows, flat, strict=True) if its == label]
        prototype = row if label == 255 else sum(same) / (len(same) + 1e-6)
        result.append((row @ prototype) / (row.norm() * prototype.norm()))
    return torch.stack(result)


def formula(student, teacher, labels):
    pairs = [(cosines(s, y), cosines(t, y)) for s, t, y in zip(student, teacher, labels, strict=True)]
    return torch.stack([(a - b) ** 2 for a, b in pairs]).mean()


@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
def test_formula_with_gradient_through_the_prototypes(size_s, size_t):
    student, teacher, target = batch = make_batch(3, size_s, size_t)
    losses = build(IFVD, batch, ifv_weight=3.0)(student, teacher, target)
    expected = 3 * formula(plain.resize(student.features, size_t), teacher.features, plain.nearest(target, size_t))
    assert_matches(losses["loss_ifv"], expected, {"features": student.features})


@pytest.mark.parametrize("name", ["fs128", "fs512"])
def test_stored_values(name):
    features = golden.tensor(name, grad=True)
    loss = variation_loss(features, golden.tensor("ft512"), golden.tensor("labels"), 19)
    golden.check(f"CriterionIFV_{name}", [loss], {name: features})


def test_all_ignored_batch_gives_zero_with_zero_gradients():
    student, teacher, target = batch = make_batch()
    loss = build(IFVD, batch)(student, teacher, torch.full_like(target, 255))["loss_ifv"]
    loss.backward()
    assert loss == 0 and not student.features.grad.any()


def test_weight_zero_gives_no_term():
    batch = make_batch()
    assert build(IFVD, batch, ifv_weight=0.0)(*batch) == {}


def test_hard_cases():
    check_hard_cases(IFVD, {"ifv"})
    assert_half_close(IFVD, 1e-5)


@pytest.mark.slow  # tests/engine/test_process_equality.py compares every method
def test_processes():
    check_processes(IFVD, accumulate=2)
