"""Pieces that several networks are made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.layers import (
    InvertedResidual,
    WideConv2d,
    adaptive_avg_pools,
    conv,
    conv_bn_relu,
    initialize_weights,
    resize,
)

SIZES = (1, 2, 3, 6)


@pytest.mark.parametrize("height, width", [(16, 24), (13, 17), (6, 5), (1, 2)])
def test_pools_are_those_of_torch_with_their_gradients(height, width):
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(2, 3, size, size, dtype=torch.float64) for size in SIZES]
    ours = adaptive_avg_pools(x, SIZES)
    expected = [F.adaptive_avg_pool2d(x, size) for size in SIZES]
    gradients = []
    for pools in (ours, expected):
        total = sum((pool * weight).sum() for pool, weight in zip(pools, weights, strict=True))
        gradients.append(torch.autograd.grad(total, x)[0])
    for pool, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(pool, reference, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_pools_stay_exact_and_finite_in_half_precision():
    x = torch.full((1, 1, 256, 256), 300.0, dtype=torch.float16)  # a sum over rows and columns would overflow
    assert all((pool == 300).all() for pool in adaptive_avg_pools(x, SIZES))
    x = torch.randn(2, 8, 31, 47)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pools = adaptive_avg_pools(x, SIZES)
    for pool, size in zip(pools, SIZES, strict=True):
        torch.testing.assert_close(pool.float(), F.adaptive_avg_pool2d(x, size), rtol=2e-2, atol=2e-2)


def test_resizing_to_the_same_size_is_the_same_tensor():
    x = torch.randn(1, 2, 5, 7)
    assert resize(x, (5, 7), align_corners=True) is x
    expected = F.interpolate(x, size=(4, 9), mode="bilinear", align_corners=False)
    assert torch.equal(resize(x, (4, 9), align_corners=False), expected)


def test_inverted_residual_adds_its_input_only_where_told():
    x = torch.randn(2, 3, 4, 4)
    layer = nn.Conv2d(3, 3, 1)
    assert torch.equal(InvertedResidual([layer], adds_input=True)(x), x + layer(x))
    assert torch.equal(InvertedResidual({"only": layer}, adds_input=False)(x), layer(x))
    assert list(InvertedResidual({"a": layer}, adds_input=True).state_dict()) == ["a.weight", "a.bias"]


def test_fresh_weights_have_the_stated_spread():
    torch.manual_seed(0)
    network = nn.Sequential(conv_bn_relu(64, 256, 3), nn.Conv2d(256, 200, 1), nn.Linear(200, 300))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 7.0)
    initialize_weights(network, ["1"])
    assert network[0][0].weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.03)
    assert network[1].weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert network[2].weight.abs().max() <= 0.04 and network[2].weight.std().item() == pytest.approx(0.0176, rel=0.03)
    assert (network[0][1].weight == 1).all() and all((layer.bias == 0).all() for layer in (network[1], network[2]))


@pytest.mark.parametrize("size", [(9, 20), (30, 41)])  # smaller than the dilation, and not
@pytest.mark.parametrize("autocast", [False, True])
def test_wide_convolution_in_half_precision(size, autocast):
    """Equal to torch's own in float32 up to the rounding of bfloat16, in value and gradients."""
    torch.manual_seed(0)
    layer = conv(6, 5, 3, dilation=12)
    assert isinstance(layer, WideConv2d)
    layer.bias = torch.nn.Parameter(torch.randn(5))  # a folded batch norm's
    x = torch.randn(2, 6, *size).bfloat16().float().requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    inputs = [x, layer.weight, layer.bias]
    wanted = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=12, dilation=12)
    assert torch.equal(layer(x), wanted)  # in float32 it is torch's
    upstream = torch.randn_like(wanted).bfloat16().float()
    wanted_grads = torch.autograd.grad(wanted, inputs, upstream)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            got = layer(x)
    else:
        got = layer.bfloat16()(x.bfloat16())
        inputs = [x, layer.weight, layer.bias]
    assert got.dtype == torch.bfloat16 and got.shape == wanted.shape
    assert (got - wanted).norm() < 0.01 * wanted.norm()
    for grad, reference in zip(torch.autograd.grad(got, inputs, upstream.to(got.dtype)), wanted_grads, strict=True):
        assert (grad - reference).norm() < 0.01 * reference.norm()
