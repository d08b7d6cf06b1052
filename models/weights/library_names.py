"""The names of our backbones' tensors in libraries' files.

Each function maps one of our names to the file's, or to several whose tensors are concatenated. As the file's other
names do not matter, a file with missing tensors cannot be misread.
"""

import re
from collections.abc import Iterable, Iterator

# blocks per stage in timm's numbering; the last 1x1 convolution of MobileNetV3 is a separate stage
MOBILENETV2_STAGES = (1, 2, 3, 4, 3, 3, 1)
MOBILENETV3_STAGES = {11: (1, 2, 3, 2, 3), 15: (1, 2, 3, 4, 2, 3)}  # by number of blocks
RESNET_S_STEM = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}


def unchanged(name: str, own: frozenset[str]) -> str:
    """Files under our own names."""
    return name


def published_mobilenetv2(name: str, own: frozenset[str]) -> str:
    """torchvision's layout of 2019: every layer of a block is numbered, under `conv`."""
    return name.removeprefix("net.")


def published_mobilevit(name: str, own: frozenset[str]) -> str:
    return _substitute(name, ((r"attn\.attn\.in_proj_", "attn.qkv."), (r"attn\.attn\.out_proj\.", "attn.proj.")))


def timm_resnet_s(name: str, own: frozenset[str]) -> str:
    layer, _, leaf = name.partition(".")
    return f"{RESNET_S_STEM.get(layer, layer)}.{leaf}"


def torchvision_mobilenetv2(name: str, own: frozenset[str]) -> str:
    """torchvision's current layout: convolution, batch norm and activation are one layer of a block."""
    match = re.fullmatch(r"net\.features\.(\d+)\.conv\.(\d+)\.(\w+)", name)
    if match is None:
        return name.removeprefix("net.")
    block, place, leaf = int(match[1]), int(match[2]), match[3]
    layer, part = divmod(place, 3)
    wrapped = layer < _activated(block, own)
    return f"features.{block}.conv.{layer}.{part}.{leaf}" if wrapped else f"features.{block}.conv.{layer + part}.{leaf}"


def timm_mobilenetv2(name: str, own: frozenset[str]) -> str:
    match = re.fullmatch(r"net\.features\.(\d+)\.(conv\.)?(\d+)\.(\w+)", name)
    assert match is not None, name
    block, place, leaf = int(match[1]), int(match[3]), match[4]
    if block == 0:
        return f"{('conv_stem', 'bn1')[place]}.{leaf}"
    layer, part = divmod(place, 3)
    convs = ("conv_dw", "conv_pw") if _activated(block, own) == 1 else ("conv_pw", "conv_dw", "conv_pwl")
    return f"blocks.{_staged(block, MOBILENETV2_STAGES)}.{f'bn{layer + 1}' if part else convs[layer]}.{leaf}"


def torchvision_mobilenetv3(name: str, own: frozenset[str]) -> str:
    index, layer, rest = _mobilenetv3_parts(name)
    if layer is None:
        return f"features.{index}.{_conv_bn(rest, ('0', '1'))}"
    place = list(_mobilenetv3_layers(index, own)).index(layer)
    if layer == "se":
        return f"features.{index}.block.{place}.{_squeeze(rest, ('fc1', 'fc2'))}"
    return f"features.{index}.block.{place}.{_conv_bn(rest, ('0', '1'))}"


def timm_mobilenetv3(name: str, own: frozenset[str]) -> str:
    index, layer, rest = _mobilenetv3_parts(name)
    stages = MOBILENETV3_STAGES[sum(ours.endswith("linear_conv.conv.weight") for ours in own)]
    if layer is None:
        if index == 0:
            return _conv_bn(rest, ("conv_stem", "bn1"))
        return f"blocks.{len(stages)}.0.{_conv_bn(rest, ('conv', 'bn1'))}"
    block = f"blocks.{_staged(index, stages)}"
    if layer == "se":
        return f"{block}.se.{_squeeze(rest, ('conv_reduce', 'conv_expand'))}"
    layers = [part for part in _mobilenetv3_layers(index, own) if part != "se"]
    convs = ("conv_dw", "conv_pw") if len(layers) == 2 else ("conv_pw", "conv_dw", "conv_pwl")
    place = layers.index(layer)
    return f"{block}.{_conv_bn(rest, (convs[place], f'bn{place + 1}'))}"


def hugging_face_mit(name: str, own: frozenset[str]) -> str | tuple[str, ...]:
    """transformers' SegFormer, in which keys and values are two matrices and stages count from 0."""
    match = re.fullmatch(r"(patch_embed|block|norm)(\d)\.(.+)", name)
    assert match is not None, name
    kind, stage, rest = match[1], int(match[2]) - 1, match[3]
    if kind == "norm":
        return f"encoder.layer_norm.{stage}.{rest}"
    if kind == "patch_embed":
        return f"encoder.patch_embeddings.{stage}.{_substitute(rest, ((r'^norm', 'layer_norm'),))}"
    rules = (
        (r"(\d+)\.norm(\d)", r"\1.layer_norm_\2"),
        (r"attn\.q\.", "attention.self.query."),
        (r"attn\.sr\.", "attention.self.sr."),
        (r"attn\.norm\.", "attention.self.layer_norm."),
        (r"attn\.proj\.", "attention.output.dense."),
        (r"mlp\.fc(\d)\.", r"mlp.dense\1."),
    )
    rest = f"encoder.block.{stage}.{_substitute(rest, rules)}"
    if "attn.kv." in rest:
        return tuple(rest.replace("attn.kv.", f"attention.self.{part}.") for part in ("key", "value"))
    return rest


def _substitute(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _staged(block: int, stages: tuple[int, ...]) -> str:
    """Convert a block's number in the whole network, from 1, to "stage.block", both from 0."""
    block -= 1
    for stage, depth in enumerate(stages):
        if block < depth:
            return f"{stage}.{block}"
        block -= depth
    raise ValueError(f"expected a block within {stages}, got one {block + 1} further")


def _activated(block: int, own: frozenset[str]) -> int:
    """Number of a MobileNetV2 block's layers that end in an activation: 2 with an expanding layer, else 1."""
    return 2 if f"net.features.{block}.conv.6.weight" in own else 1


def _mobilenetv3_parts(name: str) -> tuple[int, str | None, str]:
    """Split "layer4.expand_conv.conv.weight" into 4, "expand_conv", "conv.weight"; no middle for the end layers."""
    match = re.fullmatch(r"layer(\d+)\.(?:(expand_conv|depthwise_conv|se|linear_conv)\.)?(.+)", name)
    assert match is not None, name
    return int(match[1]), match[2], match[3]


def _mobilenetv3_layers(index: int, own: frozenset[str]) -> Iterator[str]:
    for layer in ("expand_conv", "depthwise_conv", "se", "linear_conv"):
        if f"layer{index}.{layer}.conv.weight" in own or f"layer{index}.{layer}.conv1.conv.weight" in own:
            yield layer


def _conv_bn(rest: str, names: tuple[str, str]) -> str:
    part, leaf = rest.split(".")
    return f"{names[part == 'bn']}.{leaf}"


def _squeeze(rest: str, names: tuple[str, str]) -> str:
    part, _, leaf = rest.split(".")
    return f"{names[part == 'conv2']}.{leaf}"
