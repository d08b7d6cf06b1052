"""Layers that several networks share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.layers import (
    TapConvolution,
    WideConv2d,
    adaptive_avg_pools,
    conv,
    conv_bn_relu,
    initialize_backbone,
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


def test_fresh_backbone_weights_have_the_stated_spread():
    torch.manual_seed(0)
    network = nn.Sequential(conv_bn_relu(64, 256, 3), nn.Linear(200, 300))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 7.0)
    initialize_backbone(network)
    assert network[0][0].weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.03)
    assert network[1].weight.abs().max() <= 0.04 and network[1].weight.std().item() == pytest.approx(0.0176, rel=0.03)
    assert (network[0][1].weight == 1).all() and (network[1].bias == 0).all()


@pytest.mark.parametrize("size", [(9, 20), (30, 41)])  # smaller than the dilation, and not
@pytest.mark.parametrize("autocast", [False, True])
def test_wide_convolution_in_half_precision(size, autocast):
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


@pytest.mark.parametrize("size", [(5, 7), (9, 20), (30, 41)])  # the middle tap only, no tap above or below, all nine
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_tap_convolution_is_torchs_with_its_gradients(size, bias, memory_format):
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 6, *size, dtype=torch.float64).to(memory_format=memory_format),
        torch.randn(5, 6, 3, 3, dtype=torch.float64),
        torch.randn(5, dtype=torch.float64) if bias else None,
    ]
    needed = [value.requires_grad_() for value in inputs if value is not None]
    got = TapConvolution.apply(*inputs, (12, 9))
    wanted = F.conv2d(*inputs, padding=(12, 9), dilation=(12, 9))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert got.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn_like(wanted)
    wanted_grads = torch.autograd.grad(wanted, needed, upstream)
    torch.testing.assert_close(torch.autograd.grad(got, needed, upstream), wanted_grads, rtol=1e-12, atol=1e-12)
    for value, reference in zip(needed, wanted_grads, strict=True):  # each alone, as of a frozen layer
        got = TapConvolution.apply(*(v if v is value or v is None else v.detach() for v in inputs), (12, 9))
        (alone,) = torch.autograd.grad(got, value, upstream)
        torch.testing.assert_close(alone, reference, rtol=1e-12, atol=1e-12)


def test_wide_convolution_leaves_float64_alone_under_autocast():
    layer = conv(6, 5, 3, dilation=12).double()
    x = torch.randn(2, 6, 9, 20, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, padding=12, dilation=12))


def aspp_step(layers: nn.ModuleList, x: torch.Tensor, checkpointed: bool) -> tuple[int, list[torch.Tensor]]:
    """Bytes kept for the backward pass except parameters, each storage once, and the outputs and gradients."""
    storages = {}  # held, so that no address is used twice
    parameters = {parameter.data_ptr() for parameter in layers.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            if checkpointed:
                outs = [checkpoint(layer, x, use_reentrant=False) for layer in layers]
            else:
                outs = [layer(x) for layer in layers]
    kept = sum(storage.nbytes() for storage in storages.values())
    upstream = [torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype) for out in outs]
    return kept, [*outs, *torch.autograd.grad(outs, [x, *layers.parameters()], upstream)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_wide_convolutions_keep_their_input_once(dtype):
    """Three branches share it, as ASPP's do; a float32 input under autocast has a half-precision copy for each."""
    torch.manual_seed(0)
    layers = nn.ModuleList(conv(32, 8, 3, dilation=rate) for rate in (12, 24, 36))
    x = torch.randn(2, 32, 40, 40, dtype=dtype, requires_grad=True)
    kept, results = aspp_step(layers, x, checkpointed=False)
    assert kept <= (1.05 if dtype == torch.bfloat16 else 1.55) * x.numel() * x.element_size()
    assert [grad.dtype for grad in results[3:]] == [dtype, *3 * [torch.float32]]
    _, recomputed = aspp_step(layers, x, checkpointed=True)
    assert all(torch.equal(a, b) for a, b in zip(results, recomputed, strict=True))
