import pytest
import torch
import torch.nn.functional as F

from losses.methods.dkd import DKD, DKDConfig, decoupled_kl
from tests.losses.outputs import assert_same, make_output, make_target
from utils.types import SegOutput, Step


def plain(student, teacher, target, alpha, beta, temperature):
    """(sum over the valid positions, their number), with the labels' source pixel floor(i * H / h)."""
    height, width = teacher.shape[2:]
    total, count = 0, 0
    for b in range(len(teacher)):
        for y in range(height):
            for x in range(width):
                label = int(target[b, y * target.shape[1] // height, x * target.shape[2] // width])
                if label == 255:
                    continue
                s, t = ((logits[b, :, y, x] / temperature).softmax(0) for logits in (student, teacher))
                others = [c for c in range(len(s)) if c != label]
                binary = t[label] * (t[label] / s[label]).log()
                binary = binary + (1 - t[label]) * ((1 - t[label]) / (1 - s[label])).log()
                s_others, t_others = s[others] / s[others].sum(), t[others] / t[others].sum()
                among = (t_others * (t_others / s_others).log()).sum()
                total = total + temperature**2 * (alpha * binary + beta * among)
                count += 1
    return total, count


def build(**options):
    return DKD((3, 4, 5), (3, 4, 5), 5, DKDConfig(**options))


@pytest.mark.parametrize("student_size", [(4, 5), (3, 8)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 2.0, 1.0), (0.5, 0.0, 3.0), (0.0, 4.0, 2.0)])
def test_value_and_gradient_equal_the_formula(batch, student_size, alpha, beta, temperature):
    student = make_output(3, student_size, batch=batch, grad=True)
    teacher = make_output(3, (4, 5), batch=batch, seed=1)
    target = make_target(batch, (9, 17))
    resized = student.logits
    if student_size != (4, 5):
        resized = F.interpolate(resized, (4, 5), mode="bilinear", align_corners=True)
    total, count = plain(resized, teacher.logits, target, alpha, beta, temperature)
    assert 0 < count < batch * 20
    method = build(dkd_weight=2.0, dkd_alpha=alpha, dkd_beta=beta, dkd_temperature=temperature)
    got = method(student, teacher, target)
    assert set(got) == {"loss_dkd"}
    assert_same(got["loss_dkd"], 2 * total / count, [student.logits], rtol=1e-6)  # the mean's factor is float32


def test_ignored_positions_do_not_count():
    student, teacher = make_output(3, (4, 5), grad=True), make_output(3, (4, 5), seed=1)
    target = make_target(2, (4, 5))
    ignored = (target == 255)[:, None]
    loss = build()(student, teacher, target)["loss_dkd"]
    (grad,) = torch.autograd.grad(loss, student.logits)
    assert torch.equal(grad.ne(0).any(1, keepdim=True), ~ignored)
    other = student._replace(logits=student.logits.detach().masked_fill(ignored, 100.0))
    assert torch.equal(build()(other, teacher, target)["loss_dkd"], loss)


def test_all_ignored_gives_zero_with_zero_gradient():
    student, teacher = make_output(3, (4, 5), grad=True), make_output(3, (4, 5), seed=1)
    loss = build()(student, teacher, torch.full((2, 8, 10), 255))["loss_dkd"]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.logits.grad, torch.zeros_like(student.logits))


def test_mean_over_micro_batches_is_the_mean_over_the_step():
    student, teacher = make_output(3, (4, 5), batch=4), make_output(3, (4, 5), batch=4, seed=1)
    target = make_target(4, (8, 10))
    target[:2, 2:] = 255  # the micro-batches differ in their number of valid positions
    total = 0
    for i in range(2):
        rows = slice(2 * i, 2 * i + 2)
        pair = (SegOutput(output.logits[rows], output.features[rows]) for output in (student, teacher))
        total = total + build()(*pair, target[rows], Step(0, i, 2, target))["loss_dkd"] / 2
    torch.testing.assert_close(total, build()(student, teacher, target)["loss_dkd"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_confident_networks_have_finite_values_and_gradients(sign):
    teacher = torch.tensor([80.0, 0.0, -80.0]).reshape(1, 3, 1, 1)
    student = (sign * teacher).requires_grad_()
    for label in range(3):
        loss = decoupled_kl(student, teacher, torch.full((1, 1, 1), label), 1.0, 1.0, 1.0).sum()
        (grad,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert grad.isfinite().all()
        assert (loss.item() == 0) == (sign == 1)


def test_one_class_has_nothing_to_compare():
    logits = torch.randn(1, 1, 2, 2, requires_grad=True)
    loss = decoupled_kl(logits, torch.randn(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), 1.0, 2.0, 1.0).sum()
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", ["dkd_alpha", "dkd_beta"])
def test_refuses_negative_parts(name):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} -1.*at least 0"):
        DKDConfig(**{name: -1})
