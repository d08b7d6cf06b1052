"""SKD against its formula, the stored values and the hard cases."""

import pytest
import torch

from losses.methods.skd import SKD, structural_loss
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


def formula(student, teacher):
    def pooled(maps):
        h, w = maps.shape[2:]
        rows = [[maps[:, :, y : y + 2, x : x + 2].amax(dim=(2, 3)) for x in range(0, w, 2)] for y in range(0, h, 2)]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    total = 0
    for rows_s, rows_t in zip(plain.pixels(pooled(student)), plain.pixels(pooled(teacher)), strict=True):
        total = total + ((rows_s @ rows_s.T - rows_t @ rows_t.T) ** 2).mean()
    return total / student.shape[0]


@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
def test_formula(size_s, size_t):
    student, teacher, target = batch = make_batch(3, size_s, size_t)
    losses = build(SKD, batch, skd_weight=3.0)(student, teacher, target)
    expected = 3 * formula(plain.resize(student.features, size_t), teacher.features)
    assert_matches(losses["loss_skd"], expected, {"features": student.features})


@pytest.mark.parametrize(("name", "teacher"), [("fs128", "ft512"), ("fs512", "ft512"), ("fs_odd", "ft_odd")])
def test_stored_values(name, teacher):
    features = golden.tensor(name, grad=True)
    case = "CriterionStructuralKD_" + name.removeprefix("fs_")
    case = case if name == "fs_odd" else f"CriterionStructuralKD_{name}"
    golden.check(case, [structural_loss(features, golden.tensor(teacher))], {name: features})


def test_equal_maps_give_zero_in_single_precision():
    maps = torch.randn(2, 64, 20, 20).relu()
    assert structural_loss(maps, maps).abs() < 1e-9


def test_weight_zero_gives_no_term():
    batch = make_batch()
    assert build(SKD, batch, skd_weight=0.0)(*batch) == {}


def test_hard_cases():
    check_hard_cases(SKD, {"skd"})
    assert_half_close(SKD, 1e-5)


@pytest.mark.slow  # tests/engine/test_process_equality.py compares every method
def test_processes():
    check_processes(SKD, accumulate=2)
