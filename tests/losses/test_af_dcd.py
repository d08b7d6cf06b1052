import pytest
import torch

from losses.methods import af_dcd
from losses.methods.af_dcd import patch_contrast
from tests.losses import plain
from tests.losses.distillers import assert_same, make_output

CASES = {
    "whole patches": (16, (32, 16)),
    "two channels a group": (32, (16, 16)),
    "border windows and patches": (16, (18, 21)),
    "smaller than a patch": (17, (5, 9)),
    "smaller than a window": (20, (2, 3)),
    "few channels": (3, (13, 17)),
    "one channel": (1, (5, 5)),
}


def make_pair(channels, size, batch=2):
    """Features of the student, with gradient, and of the teacher."""
    return (make_output(channels, size, batch=batch, grad=not seed, seed=seed).features for seed in (0, 1))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_of_the_contrast_equal_the_formula(case):
    student, teacher = make_pair(*CASES[case])
    expected = plain.patch_contrast(student, teacher, 2.0)
    got = patch_contrast(student, teacher, 2.0)
    if case == "one channel":  # one group, no negatives
        assert got.item() == 0
        assert not torch.autograd.grad(got, student)[0].any()
    else:
        assert_same(got, expected, [student])


def test_chunks_change_nothing(monkeypatch):
    student, teacher = make_pair(16, (40, 40))
    whole = patch_contrast(student, teacher, 1.0)
    sizes = []
    contrast_sum = af_dcd._contrast_sum
    monkeypatch.setattr(af_dcd, "_contrast_sum", lambda s, *rest: sizes.append(len(s)) or contrast_sum(s, *rest))
    monkeypatch.setattr(af_dcd, "_BUFFER_BYTES", {"cpu": 5 * 256 * 256 * 8})
    assert_same(patch_contrast(student, teacher, 1.0), whole, [student])
    assert sizes == [5, 5, 5, 3]  # 3 x 3 patches of two images


def test_value_without_gradients():
    student, teacher = make_pair(16, (9, 9))
    with torch.no_grad():
        alone = patch_contrast(student, teacher, 0.5)
    assert not alone.requires_grad
    assert torch.equal(alone, patch_contrast(student, teacher, 0.5).detach())


def test_equal_features_have_no_loss_and_exchanged_groups_a_large_one():
    features = make_output(32, (16, 16)).features * 1000
    assert patch_contrast(features, features, 0.07).item() == pytest.approx(0, abs=1e-6)
    other = patch_contrast(features, features.roll(2, dims=1), 0.07)  # each group's vector is now another's
    assert other > 100


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"must have one shape, got \(1, 4, 8, 8\), \(1, 4, 8, 9\)"):
        patch_contrast(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 9), 1.0)
