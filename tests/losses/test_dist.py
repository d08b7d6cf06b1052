import pytest
import torch
import torch.nn.functional as F

from losses.methods.dist import DIST, DISTConfig, correlation_loss
from tests.losses.outputs import assert_same, make_output, make_target


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def plain(student, teacher):
    """1 - mean correlation of classes at a position + 1 - mean correlation of positions of a class."""
    if student.shape != teacher.shape:
        student = F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=True)
    rows = [logits.permute(0, 2, 3, 1).flatten(0, 2).softmax(1) for logits in (student, teacher)]  # (positions, Y)
    inter = [pearson(s, t) for s, t in zip(*rows, strict=True)]
    intra = [pearson(s, t) for s, t in zip(rows[0].T, rows[1].T, strict=True)]
    return (1 - sum(inter) / len(inter)) + (1 - sum(intra) / len(intra))


def build(**options):
    return DIST((3, 4, 5), (3, 4, 5), 5, DISTConfig(**options))


@pytest.mark.parametrize("student_size", [(4, 5), (7, 3)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("aux", [False, True])
def test_value_and_gradients_equal_the_formula(batch, student_size, aux):
    student = make_output(3, student_size, batch=batch, grad=True, aux=aux)
    teacher = make_output(3, (4, 5), batch=batch, seed=1, aux=aux)
    expected = plain(student.logits, teacher.logits)
    inputs = [student.logits]
    if aux:
        expected = expected + 0.4 * plain(student.aux_logits, teacher.aux_logits)
        inputs.append(student.aux_logits)
    got = build(dist_weight=3.0)(student, teacher, make_target(batch, (8, 10)))
    assert set(got) == {"loss_dist"}
    assert_same(got["loss_dist"], 3 * expected, inputs, rtol=1e-6)  # the formula lacks the 1e-8 added to the norms


def test_auxiliary_logits_count_only_where_both_networks_have_them():
    student, teacher = make_output(3, (4, 5), aux=True), make_output(3, (4, 5), seed=1, aux=True)
    target = make_target(2, (8, 10))
    without = build(dist_aux_factor=0.0)(student, teacher, target)["loss_dist"]
    assert not torch.equal(build()(student, teacher, target)["loss_dist"], without)
    for pair in ((student._replace(aux_logits=None), teacher), (student, teacher._replace(aux_logits=None))):
        torch.testing.assert_close(build()(*pair, target)["loss_dist"], without)


def test_teachers_auxiliary_head_is_asked_for_only_where_it_counts():
    assert build().needs_teacher_aux
    assert not build(dist_aux_factor=0.0).needs_teacher_aux
    assert not build(dist_weight=0.0).needs_teacher_aux


def test_equal_and_opposite_distributions():
    logits = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]], dtype=torch.float64)  # two classes, two positions
    assert correlation_loss(logits, 3 * logits).item() == pytest.approx(0, abs=1e-6)
    assert correlation_loss(logits, -logits).item() == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize("size", [(3, 3), (1, 1)])
def test_constant_probabilities_are_uncorrelated_and_have_finite_gradients(size):
    logits = torch.zeros(1, 5, *size, requires_grad=True)
    loss = correlation_loss(logits, torch.randn(1, 5, *size))
    loss.backward()
    assert loss.item() == pytest.approx(2)
    assert logits.grad.isfinite().all()


def test_refuses_a_negative_factor():
    with pytest.raises(ValueError, match="--dist-aux-factor -1.*at least 0"):
        DISTConfig(dist_aux_factor=-1)
