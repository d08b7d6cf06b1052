"""A second implementation of the networks, as plain functions of a state dict, without modules of ours.

Batch norm is in evaluation mode, so nothing is random. All functions take the state dict `s`, with names as in
checkpoints, and maps (N, C, H, W).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
POOLS = (1, 2, 3, 6)
RESNET_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
MIT_DEPTHS = {
    "MiT_B0": (2, 2, 2, 2), "MiT_B1": (2, 2, 2, 2), "MiT_B2": (3, 4, 6, 3),
    "MiT_B3": (3, 4, 18, 3), "MiT_B4": (3, 8, 27, 3), "MiT_B5": (3, 6, 40, 3),
}  # fmt: skip
# first block with hard swish; blocks with stride 2; those that lose it: dilation 2 from the first on, 4 from the second
MOBILENETV3 = {"mobilenetv3_large": (7, (2, 4), (7, 13)), "mobilenetv3_small": (4, (1, 2), (4, 9))}
# expansion, channels, blocks, stride
MOBILENETV2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def compute(model: str, backbone: str, s: State, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (logits, features, auxiliary logits or None where the network has no such head)."""
    aux = None
    if backbone in RESNET_DEPTHS:
        stages = resnet(s, images, backbone)
        aux = auxiliary(s, stages[2])
    elif backbone in MIT_DEPTHS:
        stages = mit(s, images, backbone)
    elif backbone in MOBILENETV3:
        stages = [mobilenetv3(s, images, backbone)]
    else:
        stages = [{"mobilenetv2": mobilenetv2, "mobilevit_xx_small": mobilevit}[backbone](s, images)]
    if model.startswith("upernet"):
        return *upernet(s, stages), aux
    if model == "segformer":
        return *segformer(s, stages), aux
    return *(psp if model.startswith("psp") else deeplabv3)(s, stages[-1]), aux


def batch_norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (s[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


def conv_bn_relu(s: State, name: str, x: Tensor, padding: int = 0, dilation: int = 1, stride: int = 1) -> Tensor:
    x = F.conv2d(x, s[f"{name}.0.weight"], stride=stride, padding=padding, dilation=dilation)
    return F.relu(batch_norm(s, f"{name}.1", x))


def biased_conv(s: State, name: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], **options)


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def layer_norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)


def bilinear(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def resnet(s: State, x: Tensor, backbone: str) -> list[Tensor]:
    p, stages = "pretrained.", []
    for index, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.conv2d(x, s[f"{p}conv{index}.weight"], stride=stride, padding=1)
        x = F.relu(batch_norm(s, f"{p}bn{index}", x))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for layer, depth in enumerate(RESNET_DEPTHS[backbone], start=1):
        for block in range(depth):
            name = f"{p}layer{layer}.{block}"
            later = {1: 1, 2: 1, 3: 2, 4: 4}[layer]
            dilation = {1: 1, 2: 1, 3: 1, 4: 2}[layer] if block == 0 else later
            stride = 2 if (layer, block) == (2, 0) else 1
            # (padding and dilation, stride) of each convolution
            plan = [(0, 1), (dilation, stride), (0, 1)] if backbone != "resnet18" else [(dilation, stride), (later, 1)]
            y = x
            for index, (dilated, step) in enumerate(plan, start=1):
                weight = s[f"{name}.conv{index}.weight"]
                y = F.conv2d(y, weight, stride=step, padding=dilated, dilation=max(dilated, 1))
                y = batch_norm(s, f"{name}.bn{index}", y)
                y = F.relu(y) if index < len(plan) else y
            if block == 0 and f"{name}.downsample.0.weight" in s:
                x = F.conv2d(x, s[f"{name}.downsample.0.weight"], stride=stride)
                x = batch_norm(s, f"{name}.downsample.1", x)
            x = F.relu(x + y)
        stages.append(x)
    return stages


def mobilenetv2(s: State, x: Tensor) -> Tensor:
    p, index, width = "pretrained.net.features.", 0, 32
    x = F.relu6(batch_norm(s, f"{p}0.1", F.conv2d(x, s[f"{p}0.0.weight"], stride=2, padding=1)))
    for expansion, channels, blocks, stage_stride in MOBILENETV2_STAGES:
        for block in range(blocks):
            index += 1
            built_stride = stride = stage_stride if block == 0 else 1
            dilation = 1 if index < 7 else 2 if index < 14 else 4
            if dilation > 1 and stride == 2:
                stride, dilation = 1, dilation // 2
            y, place, name = x, 0, f"{p}{index}.conv."
            if expansion > 1:
                y = F.relu6(batch_norm(s, f"{name}1", F.conv2d(y, s[f"{name}0.weight"])))
                place = 3
            geometry = {"stride": stride, "padding": dilation, "dilation": dilation, "groups": y.shape[1]}
            y = F.conv2d(y, s[f"{name}{place}.weight"], **geometry)
            y = F.relu6(batch_norm(s, f"{name}{place + 1}", y))
            y = batch_norm(s, f"{name}{place + 4}", F.conv2d(y, s[f"{name}{place + 3}.weight"]))
            x = x + y if built_stride == 1 and width == channels else y
            width = channels
    return x


def conv_same(x: Tensor, weight: Tensor, stride: int, dilation: int = 1, groups: int = 1) -> Tensor:
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        total = (math.ceil(side / stride) - 1) * stride + (weight.shape[-1] - 1) * dilation + 1 - side
        pads += [max(total, 0) // 2, max(total, 0) - max(total, 0) // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, dilation=dilation, groups=groups)


def hard_swish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def mobilenetv3(s: State, x: Tensor, backbone: str) -> Tensor:
    p = "pretrained.layer"
    x = hard_swish(batch_norm(s, f"{p}0.bn", conv_same(x, s[f"{p}0.conv.weight"], 2)))
    swish, strided, dilated = MOBILENETV3[backbone]
    index = 1
    while f"{p}{index}.linear_conv.conv.weight" in s:
        dilation = 2 ** sum(index >= first for first in dilated)
        activation, name, y = hard_swish if index >= swish else F.relu, f"{p}{index}.", x
        if f"{name}expand_conv.conv.weight" in s:
            y = F.conv2d(y, s[f"{name}expand_conv.conv.weight"])
            y = activation(batch_norm(s, f"{name}expand_conv.bn", y))
        weight = s[f"{name}depthwise_conv.conv.weight"]
        middle, kernel = len(weight), weight.shape[-1]
        if index in strided + dilated:
            y = conv_same(y, weight, 2 if index in strided else 1, dilation, middle)
        else:
            y = F.conv2d(y, weight, padding=dilation * (kernel - 1) // 2, dilation=dilation, groups=middle)
        y = activation(batch_norm(s, f"{name}depthwise_conv.bn", y))
        if f"{name}se.conv1.conv.weight" in s:
            gate = F.relu(biased_conv(s, f"{name}se.conv1.conv", y.mean((2, 3), keepdim=True)))
            y = y * ((biased_conv(s, f"{name}se.conv2.conv", gate) + 3) / 6).clamp(0, 1)
        y = batch_norm(s, f"{name}linear_conv.bn", F.conv2d(y, s[f"{name}linear_conv.conv.weight"]))
        x = x + y if index not in strided + dilated and x.shape == y.shape else y
        index += 1
    return hard_swish(batch_norm(s, f"{p}{index}.bn", F.conv2d(x, s[f"{p}{index}.conv.weight"])))


def mobilevit(s: State, x: Tensor) -> Tensor:
    p = "pretrained.layers."

    def layer(name: str, x: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
        weight = s[f"{name}.conv.weight"]
        padding = dilation * (weight.shape[-1] - 1) // 2
        return batch_norm(s, f"{name}.bn", F.conv2d(x, weight, None, stride, padding, dilation, groups))

    def inverted(name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        y = F.silu(layer(f"{name}.conv.0", x))
        y = F.silu(layer(f"{name}.conv.1", y, stride, dilation, y.shape[1]))
        y = layer(f"{name}.conv.2", y)
        return x + y if stride == 1 and x.shape == y.shape else y

    def block(name: str, x: Tensor, depth: int) -> Tensor:
        local = F.conv2d(F.silu(layer(f"{name}.local_rep.0", x)), s[f"{name}.local_rep.1.conv.weight"])
        height, width = (side + side % 2 for side in x.shape[-2:])
        even = local.new_empty(*local.shape[:2], height, width)
        local = bilinear(local, even, align_corners=False)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a pixel of the patches each
            part = local[:, :, row::2, column::2]
            tokens = part.flatten(2).transpose(1, 2)
            for index in range(depth):
                inner = f"{name}.global_rep.{index}"
                normed = layer_norm(s, f"{inner}.ln1", tokens, 1e-5)
                packed = F.linear(normed, s[f"{inner}.attn.attn.in_proj_weight"], s[f"{inner}.attn.attn.in_proj_bias"])
                tokens = tokens + linear(s, f"{inner}.attn.attn.out_proj", attend(*packed.chunk(3, -1), heads=4))
                hidden = F.silu(linear(s, f"{inner}.ffn.layers.0.0", layer_norm(s, f"{inner}.ln2", tokens, 1e-5)))
                tokens = tokens + linear(s, f"{inner}.ffn.layers.1", hidden)
            tokens = layer_norm(s, f"{name}.global_rep.{depth}", tokens, 1e-5)
            even[:, :, row::2, column::2] = tokens.transpose(1, 2).reshape(part.shape)
        y = layer(f"{name}.conv_proj", bilinear(even, x, align_corners=False))
        return F.silu(layer(f"{name}.conv_fusion", torch.cat([x, y], dim=1)))

    x = F.silu(layer("pretrained.stem", x, stride=2))
    for name, stride, dilation in (("0.0", 1, 1), ("1.0", 2, 1), ("1.1", 1, 1), ("1.2", 1, 1), ("2.0", 2, 1)):
        x = inverted(p + name, x, stride, dilation)
    x = block(f"{p}2.1", x, 2)
    x = block(f"{p}3.1", inverted(f"{p}3.0", x, dilation=2), 4)
    x = block(f"{p}4.1", inverted(f"{p}4.0", x, dilation=4), 3)
    return F.silu(layer("pretrained.conv_1x1_exp", x))


def mit(s: State, x: Tensor, backbone: str) -> list[Tensor]:
    stages = []
    plan = zip(MIT_DEPTHS[backbone], (1, 2, 5, 8), (8, 4, 2, 1), ((4, 3), (2, 1), (2, 1), (2, 1)), strict=True)
    for stage, (depth, heads, reduction, (stride, padding)) in enumerate(plan, start=1):
        x = biased_conv(s, f"patch_embed{stage}.proj", x, stride=stride, padding=padding)
        shape = x.shape
        tokens = layer_norm(s, f"patch_embed{stage}.norm", x.flatten(2).transpose(1, 2), 1e-5)
        for block in range(depth):
            name = f"block{stage}.{block}."
            normed = source = layer_norm(s, f"{name}norm1", tokens, 1e-6)
            if reduction > 1:
                image = normed.transpose(1, 2).reshape(shape)
                image = biased_conv(s, f"{name}attn.sr", image, stride=reduction)
                source = layer_norm(s, f"{name}attn.norm", image.flatten(2).transpose(1, 2), 1e-5)
            keys, values = linear(s, f"{name}attn.kv", source).chunk(2, dim=-1)
            attended = attend(linear(s, f"{name}attn.q", normed), keys, values, heads)
            tokens = tokens + linear(s, f"{name}attn.proj", attended)
            hidden = linear(s, f"{name}mlp.fc1", layer_norm(s, f"{name}norm2", tokens, 1e-6))
            image = hidden.transpose(1, 2).reshape(shape[0], -1, *shape[2:])
            image = biased_conv(s, f"{name}mlp.dwconv.dwconv", image, padding=1, groups=image.shape[1])
            tokens = tokens + linear(s, f"{name}mlp.fc2", F.gelu(image.flatten(2).transpose(1, 2)))
        x = layer_norm(s, f"norm{stage}", tokens, 1e-6).transpose(1, 2).reshape(shape)
        stages.append(x)
    return stages


def psp(s: State, x: Tensor) -> tuple[Tensor, Tensor]:
    maps = [x]
    for index, size in enumerate(POOLS, start=1):
        pooled = conv_bn_relu(s, f"head.psp.conv{index}", F.adaptive_avg_pool2d(x, size))
        maps.append(bilinear(pooled, x, align_corners=True))
    features = conv_bn_relu(s, "head.block", torch.cat(maps, dim=1), padding=1)
    return biased_conv(s, "head.classifier", features), features


def deeplabv3(s: State, x: Tensor) -> tuple[Tensor, Tensor]:
    branches = [conv_bn_relu(s, "head.aspp.b0", x)]
    for index, rate in ((1, 12), (2, 24), (3, 36)):
        branches.append(conv_bn_relu(s, f"head.aspp.b{index}.block", x, padding=rate, dilation=rate))
    pooled = F.conv2d(x.mean((2, 3), keepdim=True), s["head.aspp.b4.gap.1.weight"])
    pooled = F.relu(batch_norm(s, "head.aspp.b4.gap.2", pooled))
    branches.append(bilinear(pooled, x, align_corners=True))
    projected = conv_bn_relu(s, "head.aspp.project", torch.cat(branches, dim=1))
    features = conv_bn_relu(s, "head.block", projected, padding=1)
    return biased_conv(s, "head.block.4", features), features


def upernet(s: State, stages: list[Tensor]) -> tuple[Tensor, Tensor]:
    last, maps = stages[-1], [stages[-1]]
    for index, size in enumerate(POOLS):
        pooled = bilinear(F.adaptive_avg_pool2d(last, size), last, align_corners=False)
        maps.append(conv_bn_relu(s, f"head.ppm_conv.{index}", pooled))
    x = conv_bn_relu(s, "head.ppm_last_conv", torch.cat(maps, dim=1), padding=1)
    levels = [x]
    for index in (2, 1, 0):
        lateral = conv_bn_relu(s, f"head.fpn_in.{index}", stages[index])
        x = lateral + bilinear(x, lateral, align_corners=False)
        levels = [conv_bn_relu(s, f"head.fpn_out.{index}.0", x, padding=1), *levels]
    fused = torch.cat([bilinear(level, levels[0], align_corners=False) for level in levels], dim=1)
    features = conv_bn_relu(s, "head.conv_last.0", fused, padding=1, stride=2)
    return biased_conv(s, "head.conv_last.1", features), features


def segformer(s: State, stages: list[Tensor]) -> tuple[Tensor, Tensor]:
    maps = []
    for index in (4, 3, 2, 1):
        level = linear(s, f"linear_c{index}.proj", stages[index - 1].movedim(1, -1)).movedim(-1, 1)
        maps.append(bilinear(level, stages[0], align_corners=False))
    features = F.relu(batch_norm(s, "linear_fuse.1", biased_conv(s, "linear_fuse.0", torch.cat(maps, dim=1))))
    return biased_conv(s, "linear_pred", features), features


def auxiliary(s: State, x: Tensor) -> Tensor:
    return biased_conv(s, "auxlayer.block.4", conv_bn_relu(s, "auxlayer.block", x, padding=1))
