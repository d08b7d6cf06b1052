import pytest
import torch

from losses.modules.reconstruction import MaskedReconstruction, hidden_positions
from utils.types import Step


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
