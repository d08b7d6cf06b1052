"""Details of the backbones that no stored output covers."""

import pytest
import torch
import torch.nn.functional as F

from models.backbones import BACKBONES, build_backbone, mit, mobilevit
from models.backbones.mobilenetv3 import round_channels
from models.layers import SameConv2d


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_have_the_declared_channels_and_strides(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
    stages = backbone(torch.empty(1, 3, 97, 131, device="meta"))
    assert tuple(stage.shape[1] for stage in stages) == backbone.channels
    sizes = [(-(-97 // stride), -(-131 // stride)) for stride in backbone.strides]
    assert [tuple(stage.shape[-2:]) for stage in stages] == sizes
    assert backbone.strides == ((4, 8, 16, 32) if name.startswith("MiT") else (4, 8, 8, 8))


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


def test_mobilenetv2_dilations():
    features = build_backbone("mobilenetv2").net["features"]
    depthwise = {
        index: next(m for m in block.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1)
        for index, block in enumerate(features)
        if index
    }
    assert len(features) == 18 and all(layer.padding == layer.dilation for layer in depthwise.values())
    assert [i for i, layer in depthwise.items() if layer.stride == (2, 2)] == [2, 4]  # 7 and 14 lose theirs
    expected = {**dict.fromkeys(range(1, 8), 1), **dict.fromkeys(range(8, 15), 2), **dict.fromkeys(range(15, 18), 4)}
    assert {i: layer.dilation[0] for i, layer in depthwise.items()} == expected
    added = [i for i in range(1, 18) if features[i].conv.adds_input]
    assert added == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


def test_mobilevit_dilations_and_shortcuts():
    layers = build_backbone("mobilevit_xx_small").layers
    blocks = [block.conv for stage in layers for block in stage if hasattr(block, "conv")]
    assert [(b[1].conv.stride[0], b[1].conv.dilation[0]) for b in blocks] == [
        (1, 1), (2, 1), (1, 1), (1, 1), (2, 1), (1, 2), (1, 4),
    ]  # fmt: skip
    assert [b.adds_input for b in blocks] == [True, False, True, True, False, False, False]


def test_mobilevit_attention_is_torchs_own():
    attention = mobilevit.PackedAttention(16).eval()
    torch.nn.init.normal_(attention.attn.in_proj_bias)
    x = torch.randn(3, 7, 16)
    sequence_first = x.transpose(0, 1)
    expected = attention.attn(sequence_first, sequence_first, sequence_first, need_weights=False)[0].transpose(0, 1)
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)


def test_mobilevit_patches_become_four_sequences_and_back():
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    sequences = mobilevit._unfold(x)
    assert sequences.shape == (8, 6, 3)
    # of image 1, the upper right pixel of each patch, row by row
    assert torch.equal(sequences[4 + 1], x[1, :, 0::2, 1::2].reshape(3, 6).T)
    assert torch.equal(mobilevit._fold(sequences, (4, 6)), x)


def test_mobilevit_block_by_hand_at_an_odd_size():
    block = mobilevit.MobileViTBlock(8, dim=16, hidden=24, depth=1).double().eval()
    x = torch.randn(1, 8, 5, 7, dtype=torch.float64)
    silu, layer, final = F.silu, *block.global_rep
    local = block.local_rep[1](silu(block.local_rep[0].bn(block.local_rep[0].conv(x))))
    tokens = F.interpolate(local, size=(6, 8), mode="bilinear", align_corners=False)
    out = torch.empty_like(tokens)
    for row in (0, 1):
        for column in (0, 1):
            sequence = tokens[:, :, row::2, column::2].reshape(1, 16, 12).transpose(1, 2)
            normed = layer.ln1(sequence)
            sequence = sequence + layer.attn.attn(*[normed.transpose(0, 1)] * 3)[0].transpose(0, 1)
            first, second = layer.ffn.layers[0][0], layer.ffn.layers[1]
            sequence = final(sequence + second(silu(first(layer.ln2(sequence)))))
            out[:, :, row::2, column::2] = sequence.transpose(1, 2).reshape(1, 16, 3, 4)
    out = F.interpolate(out, size=(5, 7), mode="bilinear", align_corners=False)
    out = block.conv_proj.bn(block.conv_proj.conv(out))  # no activation
    fused = block.conv_fusion.bn(block.conv_fusion.conv(torch.cat([x, out], dim=1)))
    torch.testing.assert_close(block(x), silu(fused), rtol=1e-10, atol=1e-10)


def test_mit_attention_by_hand_with_a_remainder():
    attention = mit.EfficientAttention(8, heads=2, reduction=2).double()
    x = torch.randn(1, 35, 8, dtype=torch.float64)
    image = x.transpose(1, 2).view(1, 8, 5, 7)
    smaller = F.conv2d(image[:, :, :4, :6], attention.sr.weight, attention.sr.bias, stride=2)  # remainder dropped
    source = attention.norm(smaller.flatten(2).transpose(1, 2))
    keys, values = attention.kv(source).split(8, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = attention.q(x)[..., head] @ keys[..., head].transpose(1, 2) / 2.0  # sqrt(4)
        heads.append(scores.softmax(-1) @ values[..., head])
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, (5, 7)), expected, rtol=1e-10, atol=1e-10)


def test_mit_drop_path_rises_to_a_tenth_and_norms_have_their_eps():
    backbone = build_backbone("MiT_B1")
    rates = [block.drop_path.drop_prob for stage in range(1, 5) for block in getattr(backbone, f"block{stage}")]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])
    eps = {name: m.eps for name, m in backbone.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    small = {name for name in eps if name.split(".")[-1] in ("norm1", "norm2", "norm3", "norm4")}
    assert {eps[name] for name in small} == {1e-6} and {eps[name] for name in eps.keys() - small} == {1e-5}
    assert len(small) == 2 * 8 + 4 and len(eps) == len(small) + 4 + 6


def test_image_too_small_for_mit_is_refused_with_the_smallest_size():
    with pytest.raises(ValueError, match="28x64.*at least 29x29"):
        build_backbone("MiT_B0")(torch.zeros(1, 3, 28, 64))
    assert build_backbone("MiT_B0").eval()(torch.zeros(1, 3, 29, 29))[-1].shape == (1, 256, 1, 1)


@pytest.mark.parametrize("name", ["resnet34", "timm"])
def test_unknown_backbone_lists_what_there_is(name):
    with pytest.raises(ValueError, match="mobilevit_xx_small.*timm:"):
        build_backbone(name)
