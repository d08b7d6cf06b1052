import pytest
import torch
import torch.nn.functional as F

from losses.methods.fitnet import FitNet, FitNetConfig
from tests.losses import golden
from tests.losses.outputs import assert_same, make_output, make_target
from utils.types import SegOutput


@pytest.mark.parametrize("student_size", [(4, 5), (2, 9)])
@pytest.mark.parametrize(("batch", "student_channels"), [(1, 3), (2, 7)])
def test_value_and_gradients_equal_the_formula(batch, student_channels, student_size):
    student = make_output(student_channels, student_size, batch=batch, grad=True)
    teacher = make_output(7, (4, 5), batch=batch, seed=1)
    method = FitNet((student_channels, *student_size), (7, 4, 5), 5, FitNetConfig(fitnet_weight=2.0)).double()
    features = student.features
    if student_size != (4, 5):
        features = F.interpolate(features, (4, 5), mode="bilinear", align_corners=True)
    weight = method.adapter.weight
    expected = 0
    for b in range(batch):
        for y in range(4):
            for x in range(5):
                difference = weight[:, :, 0, 0] @ features[b, :, y, x] - teacher.features[b, :, y, x]
                expected = expected + (difference**2).sum()
    expected = 2 * expected / (batch * 7 * 20)
    got = method(student, teacher, make_target(batch, (8, 10)))
    assert set(got) == {"loss_fitnet"}
    assert_same(got["loss_fitnet"], expected, [student.features, weight])


@pytest.mark.parametrize("name", ["fs128", "fs512"])
def test_reference_values(name):
    features, teacher = golden.tensor(name, grad=True), golden.tensor("ft512")
    method = FitNet(features.shape[1:], teacher.shape[1:], 19, FitNetConfig(fitnet_weight=1.0))
    golden.fill_parameters(method, {"adapter.weight": "conv.weight"})
    logits = torch.zeros(4, 19, 16, 32)
    loss = method(SegOutput(logits, features), SegOutput(logits, teacher), golden.tensor("labels"))["loss_fitnet"]
    golden.check(f"CriterionFitNet_{name}", [loss], {name: features, "conv.weight": method.adapter.weight})


def test_the_convolution_is_there_without_bias_where_channels_are_equal():
    method = FitNet((4, 3, 3), (4, 3, 3), 5)
    assert {name: tuple(p.shape) for name, p in method.named_parameters()} == {"adapter.weight": (4, 4, 1, 1)}
