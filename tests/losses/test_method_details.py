"""Extreme inputs of single methods, and which of them read the teacher's auxiliary logits."""

import pytest
import torch

from losses.methods.at import attention_map
from losses.methods.dist import correlation_loss
from losses.methods.dkd import decoupled_kl
from losses.methods.skd import structural_loss
from tests.losses.distillers import build, make_batch
from utils.types import SegOutput


def test_attention_of_zeros_has_finite_gradients():
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    attention_map(features).sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_skd_of_equal_maps_is_zero_in_single_precision():
    maps = torch.randn(2, 64, 20, 20).relu()
    assert structural_loss(maps, maps).abs() < 1e-9


def test_cwd_of_large_activations_is_finite():
    student, teacher, _ = batch = make_batch(dtype=torch.float32)
    losses = build("cwd", batch, torch.float32)(
        *(SegOutput(*(m * 1e4 for m in output)) for output in (student, teacher)), None
    )
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and student.features.grad.isfinite().all()


def test_dist_of_equal_and_opposite_distributions():
    logits = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]], dtype=torch.float64)  # two classes, two positions
    assert correlation_loss(logits, 3 * logits).item() == pytest.approx(0, abs=1e-6)
    assert correlation_loss(logits, -logits).item() == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize("size", [(3, 3), (1, 1)])
def test_dist_of_constant_probabilities_is_uncorrelated_with_finite_gradients(size):
    logits = torch.zeros(1, 5, *size, requires_grad=True)
    loss = correlation_loss(logits, torch.randn(1, 5, *size))
    loss.backward()
    assert loss.item() == pytest.approx(2) and logits.grad.isfinite().all()


@pytest.mark.parametrize("sign", [1, -1])
def test_dkd_of_confident_networks_has_finite_values_and_gradients(sign):
    teacher = torch.tensor([80.0, 0.0, -80.0]).reshape(1, 3, 1, 1)
    student = (sign * teacher).requires_grad_()
    for label in range(3):
        loss = decoupled_kl(student, teacher, torch.full((1, 1, 1), label), 1.0, 1.0, 1.0).sum()
        (grad,) = torch.autograd.grad(loss, student)
        assert loss.isfinite() and grad.isfinite().all()
        assert (loss.item() == 0) == (sign == 1)


def test_dkd_of_one_class_has_nothing_to_compare():
    logits = torch.randn(1, 1, 2, 2, requires_grad=True)
    loss = decoupled_kl(logits, torch.randn(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), 1.0, 2.0, 1.0).sum()
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("method", "options", "needed"),
    [
        ("dsd", {}, True),
        ("dsd", {"psd_weight": 0.0}, False),
        ("dist", {}, True),
        ("dist", {"dist_aux_factor": 0.0}, False),
        ("cirkdv2", {}, False),
    ],
)
def test_the_teachers_auxiliary_head_runs_only_if_it_is_read(method, options, needed):
    assert build(method, **options).needs_teacher_aux == needed
