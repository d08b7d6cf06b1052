import pytest
import torch

from losses.methods.mgd import MGD, MGDConfig
from tests.losses.outputs import assert_same, make_output, make_target
from tests.losses.plain import reconstruction
from utils.types import Step


@pytest.mark.parametrize(("student_channels", "student_size"), [(3, (4, 5)), (6, (4, 5)), (3, (2, 8))])
@pytest.mark.parametrize("batch", [1, 3])
def test_value_and_gradients_equal_the_formula(batch, student_channels, student_size):
    torch.manual_seed(0)
    config = MGDConfig(mgd_weight=0.5, mgd_mask_ratio=0.6, seed=2)
    method = MGD((student_channels, *student_size), (6, 4, 5), 5, config).double()
    student = make_output(student_channels, student_size, batch=batch, grad=True)
    teacher = make_output(6, (4, 5), batch=batch, seed=1)
    step = Step(7)
    generated = reconstruction(method.reconstruction, student.features, teacher.features, step)
    expected = 0.5 * ((generated - teacher.features) ** 2).sum() / batch
    got = method(student, teacher, make_target(batch, (8, 10)), step)
    assert set(got) == {"loss_mgd"}
    assert_same(got["loss_mgd"], expected, [student.features, *method.parameters()])


def test_published_settings():
    assert MGDConfig() == MGDConfig(mgd_weight=2e-5, mgd_mask_ratio=0.75)
    assert MGD((3, 4, 5), (6, 4, 5), 5).reconstruction.mask_ratio == 0.75


def test_refuses_a_mask_that_hides_everything():
    with pytest.raises(ValueError, match="--mgd-mask-ratio 1.0: expected a number from 0"):
        MGDConfig(mgd_mask_ratio=1.0)
