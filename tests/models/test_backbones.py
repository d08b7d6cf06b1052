"""Details of the backbones that no stored output covers."""

import pytest
import torch
import torch.nn.functional as F

from models.backbones import BACKBONES, build_backbone
from models.backbones.mobilenetv3 import SameConv2d, round_channels


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_have_the_declared_channels_and_strides(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
    stages = backbone(torch.empty(1, 3, 97, 131, device="meta"))
    assert tuple(stage.shape[1] for stage in stages) == backbone.channels
    assert [tuple(stage.shape[-2:]) for stage in stages] == [(25, 33), (13, 17), (13, 17), (13, 17)]
    assert backbone.strides == (4, 8, 8, 8)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_dilations(name):
    backbone = build_backbone(name)
    dilations = {}
    for index in (1, 2, 3, 4):
        layer = getattr(backbone, f"layer{index}")
        convs = [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
        assert all(m.padding == m.dilation for m in convs)
        dilations[index] = [m.dilation[0] for m in convs]
    if name == "resnet18":
        assert dilations == {1: [1] * 4, 2: [1] * 4, 3: [1, 2, 2, 2], 4: [2, 4, 4, 4]}
    else:
        assert dilations == {1: [1] * 3, 2: [1] * 4, 3: [1] + [2] * 5, 4: [2, 4, 4]}


@pytest.mark.parametrize(
    "name, lost, expected",
    [
        ("mobilenetv3_small", (4, 9), {1: 1, 3: 1, 4: 2, 8: 2, 9: 4, 11: 4}),
        ("mobilenetv3_large", (7, 13), {1: 1, 6: 1, 7: 2, 12: 2, 13: 4, 15: 4}),
    ],
)
def test_mobilenetv3_dilations_and_padding_rules(name, lost, expected):
    backbone = build_backbone(name)
    blocks = {i: getattr(backbone, f"layer{i}") for i in range(1, backbone.num_layers - 1)}
    convs = {index: block.depthwise_conv.conv for index, block in blocks.items()}
    assert {index: convs[index].dilation[0] for index in expected} == expected
    for index, conv in convs.items():
        strided = conv.stride == (2, 2)
        assert isinstance(conv, SameConv2d) == (strided or index in lost)
        if not isinstance(conv, SameConv2d):
            assert conv.padding[0] == conv.dilation[0] * (conv.kernel_size[0] - 1) // 2
    assert not any(blocks[index].adds_input for index in lost)
    assert isinstance(backbone.layer0.conv, SameConv2d)


@pytest.mark.parametrize("size", [1, 6, 7, 12, 13])
@pytest.mark.parametrize("kernel_size, stride, dilation", [(3, 2, 1), (5, 2, 1), (5, 1, 2), (3, 2, 2), (1, 2, 1)])
def test_same_padding_puts_the_smaller_half_first(size, kernel_size, stride, dilation):
    conv = SameConv2d(1, 1, kernel_size, stride=stride, dilation=dilation, bias=False).double()
    x = torch.randn(1, 1, size, size + 2, dtype=torch.float64)
    out = conv(x)
    assert out.shape[-2:] == (-(-size // stride), -(-(size + 2) // stride))
    pads = []
    for side in (size + 2, size):
        total = max((-(-side // stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - side, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(x, pads), conv.weight, stride=stride, dilation=dilation)
    torch.testing.assert_close(out, expected)


def test_hard_functions_and_rounded_widths():
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(F.hardswish(x), x * F.relu6(x + 3) / 6)
    torch.testing.assert_close(F.hardsigmoid(x), ((x + 3) / 6).clamp(0, 1))
    assert [round_channels(c / 4) for c in (16, 72, 88, 96, 120, 144, 184, 240, 288)] == [
        8,
        24,
        24,
        24,
        32,
        40,
        48,
        64,
        72,
    ]
