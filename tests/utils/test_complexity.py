"""Counted by hand, and against a real forward pass."""

import pytest
import torch
from torch import nn

from models import build_model
from models.layers import adaptive_avg_pools
from utils.complexity import count_macs, count_parameters, feature_shapes


def test_shared_parameters_are_counted_once():
    shared = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(shared, shared, nn.BatchNorm1d(4))) == 16 + 8


def test_macs_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),  # 8 * 3 * 9 a position
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # 8 * 9
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    assert count_macs(module, 10, 13) == (5 * 7) * (8 * 3 * 9 + 8 * 9) + 8 * 5


class Pools(nn.Module):
    def forward(self, x):
        return adaptive_avg_pools(x, (1, 2, 3, 6))


@pytest.mark.parametrize("size", [(64, 48), (97, 131)])
def test_pooling_costs_no_macs(size):
    assert count_macs(Pools(), *size) == 0


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize("name, backbone", [("deeplabv3", "resnet18"), ("psp_mobile", "mobilenetv3_large")])
def test_shapes_are_those_of_a_real_forward_pass(name, backbone, aux):
    network = build_model(name, backbone, 4, aux=aux)
    shapes = feature_shapes(network, 97, 131)
    with torch.no_grad():
        output = network.eval()(torch.randn(1, 3, 97, 131))
    assert shapes["logits"] == output.logits.shape[1:]
    assert shapes["features"] == output.features.shape[1:]
    assert shapes["aux_logits"] == (output.aux_logits.shape[1:] if aux else None)


def test_the_module_is_left_as_it_was_also_by_an_error():
    network = build_model("psp_mobile", "mobilenetv3_small", 3)
    frozen = network.pretrained.layer0.bn.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    addresses = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    feature_shapes(network, 2048, 4096)
    count_macs(network, 2048, 4096)
    assert network.training and network.head.training and not frozen.training
    after = network.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == addresses
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(TypeError):
        count_macs(network, 32, 32, no_such_option=True)
    assert network.training
    with pytest.raises(ValueError, match="0x5"):
        feature_shapes(network, 0, 5)
