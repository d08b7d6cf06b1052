import pytest
import torch

from losses.task import segmentation_loss
from tests.losses import plain
from tests.losses.distillers import assert_same
from utils.types import SegOutput, Step


def make(aux=True, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 5, 4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    aux_logits = torch.randn(batch, 5, 2, 3, dtype=torch.float64, generator=generator).requires_grad_() if aux else None
    target = torch.randint(0, 6, (batch, 9, 11), generator=generator)
    return SegOutput(logits, torch.zeros(batch, 1, 4, 3), aux_logits), target.where(target < 5, 255)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradient_equal_the_formula(smoothing):
    output, target = make()
    losses = segmentation_loss(output, target, label_smoothing=smoothing)
    for name, logits, weight in (("loss_task", output.logits, 1), ("loss_aux", output.aux_logits, 0.4)):
        expected = weight * plain.cross_entropy(logits, target, smoothing)
        assert_same(losses[name], expected, [logits], rtol=1e-6)


def test_no_auxiliary_head_or_weight_no_term():
    output, target = make(aux=False)
    assert set(segmentation_loss(output, target)) == {"loss_task"}
    output, target = make()
    assert set(segmentation_loss(output, target, aux_weight=0)) == {"loss_task"}


def test_all_ignored_gives_zero_with_zero_gradient():
    output, target = make()
    losses = segmentation_loss(output, torch.full_like(target, 255))
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0
    assert torch.equal(output.logits.grad, torch.zeros_like(output.logits))


@pytest.mark.parametrize("target_dtype", [torch.int64, torch.uint8])
def test_mean_over_micro_batches_is_the_mean_over_the_step(target_dtype):
    output, target = make(batch=4)
    target[:2, :7] = 255  # the micro-batches differ in their number of valid pixels
    expected = plain.cross_entropy(output.logits, target)
    total = 0
    for i in range(2):
        rows = slice(2 * i, 2 * i + 2)
        part = SegOutput(output.logits[rows], output.features[rows])
        step = Step(0, i, 2, target.to(target_dtype))
        total = total + segmentation_loss(part, target[rows], step=step)["loss_task"] / 2
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-9)
    alone = sum(plain.cross_entropy(output.logits[i : i + 2], target[i : i + 2]) for i in (0, 2)) / 2
    assert (alone - expected).abs() > 1e-3  # the mean of means is another figure


def test_half_precision_logits_are_computed_in_float32():
    output, target = make()
    half = SegOutput(output.logits.detach().bfloat16().requires_grad_(), output.features)
    loss = segmentation_loss(half, target)["loss_task"]
    assert loss.dtype == torch.float32
    expected = plain.cross_entropy(half.logits.detach().double(), target)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
