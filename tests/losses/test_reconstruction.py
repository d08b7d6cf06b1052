import pytest
import torch

from losses.methods.af_dcd import AFDCDConfig
from losses.methods.mgd import MGDConfig
from losses.modules.reconstruction import MaskedReconstruction, hidden_positions, reconstruction_error
from tests.losses.outputs import assert_same, make_output
from tests.losses.plain import reconstruction
from utils.types import Step


@pytest.mark.parametrize(("student_channels", "student_size"), [(3, (4, 5)), (6, (4, 5)), (6, (7, 2)), (4, (3, 9))])
@pytest.mark.parametrize("step", [None, Step(5, 1, 2)])
def test_value_and_gradients_equal_the_formula(student_channels, student_size, step):
    torch.manual_seed(0)
    module = MaskedReconstruction(student_channels, 6, mask_ratio=0.6, seed=4).double()
    student = make_output(student_channels, student_size, grad=True).features
    teacher = make_output(6, (4, 5), seed=1).features
    got = reconstruction_error(module(student, teacher, step), teacher)
    expected = (
        sum(
            ((image - wanted) ** 2).sum()
            for image, wanted in zip(reconstruction(module, student, teacher, step), teacher, strict=True)
        )
        / 2
    )
    parameters = dict(module.named_parameters())
    assert ("adapter.weight" in parameters) == (student_channels != 6)
    assert "adapter.bias" not in parameters
    assert_same(got, expected, [student, *parameters.values()])


def test_hidden_positions_are_zero_in_all_channels():
    module = MaskedReconstruction(4, 4, mask_ratio=0.75, seed=0)
    module.generator = torch.nn.Identity()
    features = torch.rand(2, 4, 8, 8) + 1
    kept = module(features, features, None) != 0
    assert torch.equal(kept.all(1), kept.any(1))
    assert torch.equal(module(features, features, None), features * kept)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75])
def test_share_of_hidden_positions(ratio):
    hidden = hidden_positions(torch.empty(4, 1, 64, 64), ratio, 0)
    share = hidden.flatten(1).float().mean(1)
    assert (share - ratio).abs().max() < 0.03  # 4 standard deviations of a draw of 4096
    assert hidden.shape == (4, 1, 64, 64)


def test_choice_depends_on_seed_step_and_image_alone():
    features = torch.rand(3, 2, 6, 7)

    def hidden(seed=0, step=None):
        module = MaskedReconstruction(2, 2, 0.5, seed)
        module.generator = torch.nn.Identity()
        return module(features, features, step)

    first = hidden()
    torch.manual_seed(1)
    assert torch.equal(hidden(), first)
    for other in (hidden(seed=1), hidden(step=Step(1)), hidden(step=Step(0, 1, 2))):
        assert not torch.equal(other, first)
    assert not torch.equal(first[0] == 0, first[1] == 0)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_refuses_ratios_that_leave_nothing(ratio):
    for config, name in ((MGDConfig, "mgd_mask_ratio"), (AFDCDConfig, "afdcd_mask_ratio")):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .*expected"):
            config(**{name: ratio})
