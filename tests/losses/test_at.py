import pytest
import torch
import torch.nn.functional as F

from losses.methods.at import AT, ATConfig, attention_map
from tests.losses import golden
from tests.losses.outputs import assert_same, make_output, make_target


def plain_maps(features):
    """For every image the flat list of mean squared channels, divided by its length."""
    maps = []
    for image in features:
        energy = torch.stack([(pixel**2).mean() for pixel in image.flatten(1).T])
        maps.append(energy / (energy**2).sum().sqrt())
    return torch.stack(maps)


@pytest.mark.parametrize("student_size", [(4, 5), (3, 8)])
@pytest.mark.parametrize("batch", [1, 3])
def test_value_and_gradient_equal_the_formula(batch, student_size):
    student = make_output(6, student_size, batch=batch, grad=True)
    teacher = make_output(9, (4, 5), batch=batch, seed=1)
    resized = student.features
    if student_size != (4, 5):
        resized = F.interpolate(student.features, (4, 5), mode="bilinear", align_corners=True)
    expected = 10 * ((plain_maps(resized) - plain_maps(teacher.features)) ** 2).sum() / (batch * 20)
    method = AT((6, *student_size), (9, 4, 5), 5, ATConfig(at_weight=10.0))
    got = method(student, teacher, make_target(batch, (8, 10)))
    assert set(got) == {"loss_at"}
    assert_same(got["loss_at"], expected, [student.features])


@pytest.mark.parametrize("name", ["fs128", "fs512"])
def test_reference_values(name):
    student, teacher = golden.tensor(name, grad=True), golden.tensor("ft512")
    loss = F.mse_loss(attention_map(student), attention_map(teacher))
    golden.check(f"CriterionAT_{name}", [loss], {name: student})


def test_features_of_zeros_have_finite_gradients():
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    attention_map(features).sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))
