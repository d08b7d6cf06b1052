"""Files of torchvision, timm and Hugging Face fill the whole backbone, which then computes what they compute."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import timm
import torch
import torchvision

from models import build_model
from models.base import IMAGENET_RGB, PUBLISHED, InputConvention
from models.layers import ConvBlock
from models.weights import describe_file, load_backbone_weights
from tests.models.weight_files import batches, published_file, randomise, same, silent, untouched


class Case(NamedTuple):
    """A library's network that is the same as one of our backbones; `features` computes our last stage."""

    build: Callable
    features: Callable
    network: str
    backbone: str
    convention: InputConvention = IMAGENET_RGB
    eps: float | None = None
    sides: tuple = ((65, 97),)  # image sides at which both pad alike


def timm_mobilenet(network, x):
    return network.blocks(network.bn1(network.conv_stem(x)))


def timm_network(name, **options):
    return partial(timm.create_model, name, **options)


V3 = {"network": "psp_mobile", "backbone": "mobilenetv3_small"}
V3_LARGE = {"network": "deeplabv3_mobilenet_ssseg", "backbone": "mobilenetv3_large"}
V2 = {"network": "psp_mobile", "backbone": "mobilenetv2", "sides": ((65, 97), (64, 96), (70, 91))}
# MobileNetV3's convolutions with stride 2 pad "SAME" here and both sides alike in torchvision and most of timm, which
# is the same for odd sides only: 8n + 1 stay odd down to stride 8.
CASES = {
    "torchvision mobilenet_v3_small": Case(
        torchvision.models.mobilenet_v3_small, lambda network, x: network.features(x), **V3, eps=1e-3
    ),
    "torchvision mobilenet_v3_large": Case(
        torchvision.models.mobilenet_v3_large, lambda network, x: network.features(x), **V3_LARGE, eps=1e-3
    ),
    "torchvision mobilenet_v2": Case(
        torchvision.models.mobilenet_v2, lambda network, x: network.features[:18](x), **V2
    ),
    "timm mobilenetv3_small": Case(timm_network("mobilenetv3_small_100"), timm_mobilenet, **V3),
    "timm mobilenetv3_large": Case(timm_network("mobilenetv3_large_100"), timm_mobilenet, **V3_LARGE),
    "timm mobilenetv2": Case(timm_network("mobilenetv2_100"), timm_mobilenet, **V2),
    "timm resnet*s": Case(
        timm_network("resnet50s"), lambda network, x: network.forward_features(x), "deeplabv3", "resnet50"
    ),
}


def with_our_geometry(source, backbone):
    """Give a library's convolutions the strides and dilations of ours, and their paddings unless they pad "SAME"."""

    def spatial(network):
        convs = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        return [conv for conv in convs if conv.kernel_size[0] > 1]

    ours = dict(backbone.named_modules())
    for name, module in source.named_modules():
        if name.endswith("downsample.0"):  # a ResNet's shortcut, the one 1x1 convolution with a stride
            module.stride = ours[name].stride
    for their, our in zip(spatial(source), spatial(backbone), strict=True):
        assert their.weight.shape == our.weight.shape
        their.stride, their.dilation = our.stride, our.dilation
        if type(their) is torch.nn.Conv2d:
            their.padding = tuple(d * (k - 1) // 2 for d, k in zip(our.dilation, our.kernel_size, strict=True))
    return source


@torch.no_grad()
def differences(case, source, network):
    """Largest difference of our last stage from the library's, relative to the largest value, over all image sizes."""
    network.eval()
    found = 0.0
    for height, width in case.sides:
        theirs, ours = batches(case.convention, height, width)
        expected = case.features(source, theirs)
        got = network.encode(network.to_input_convention(ours))[-1]
        assert got.shape == expected.shape
        found = max(found, ((got - expected).abs().max() / expected.abs().max()).item())
    return found


@pytest.mark.parametrize("title", CASES)
def test_networks_have_the_features_of_libraries_files(save, title):
    case = CASES[title]
    source = randomise(case.build())
    network, lines = build_model(case.network, case.backbone, 3), []
    state = dict(source.state_dict())
    name = [key for key in state if key.endswith("running_var")][-3]
    with untouched(network, rf"1 missing in the file: (\S+ \(there )?{re.escape(name)}"):
        load_backbone_weights(network, save({key: state[key] for key in state if key != name}), log=silent)
    report = load_backbone_weights(network, save(state), log=lines.append)
    assert report.complete and f"read as {re.sub('_(small|large)$', '', title)}" in lines[0]
    assert (network.input_convention, network.batch_norm_eps) == (case.convention, case.eps)
    assert "images in RGB / 255, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)" in lines[0]
    assert ("batch-norm eps 0.001 in the backbone" if case.eps else "batch-norm eps as built") in lines[0]
    assert ("image sides 8n + 1" in lines[0]) == case.backbone.startswith("mobilenetv3")
    source = with_our_geometry(source, network.backbone)
    assert differences(case, source, network) < 1e-4
    network.set_input_convention(PUBLISHED)
    assert differences(case, source, network) > 1e-2
    network.set_input_convention(case.convention)
    network.set_batch_norm_eps(None if case.eps else 1e-3)
    assert differences(case, source, network) > 1e-2


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_file_of_timms_tf_weights_is_known_by_its_own_name(save, size):
    source = randomise(timm.create_model(f"tf_mobilenetv3_{size}_100"))
    network, lines = build_model("psp_mobile", f"mobilenetv3_{size}", 3), []
    path = save(source.state_dict(), f"tf_mobilenetv3_{size}_100-427764d5.pth")
    load_backbone_weights(network, path, log=lines.append)
    halves = InputConvention("RGB", 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (network.input_convention, network.batch_norm_eps) == (halves, 1e-3)
    assert "assumed" not in lines[0] and "8n + 1" not in lines[0]
    case = Case(None, timm_mobilenet, "psp_mobile", network.backbone_name, halves, sides=((65, 97), (64, 96)))
    assert differences(case, with_our_geometry(source, network.backbone), network) < 1e-4
    load_backbone_weights(network, save(source.state_dict(), "weights.pth"), log=lines.append)
    assert network.input_convention == IMAGENET_RGB
    warning = next(line for line in lines[1].splitlines() if line.startswith("WARNING: assumed"))
    assert "tf_mobilenetv3" in warning and "timm:<name.tag>" in warning


HUGGING_FACE_STAGES = {"patch_embed": "patch_embeddings", "block": "block", "norm": "layer_norm"}
HUGGING_FACE_RULES = (
    (r"^(patch_embed|block|norm)(\d)", lambda match: f"{HUGGING_FACE_STAGES[match[1]]}.{int(match[2]) - 1}"),
    (r"(embeddings\.\d)\.norm", r"\1.layer_norm"),
    (r"\.norm(\d)\.", r".layer_norm_\1."),
    (r"attn\.q", "attention.self.query"),
    (r"attn\.sr", "attention.self.sr"),
    (r"attn\.norm", "attention.self.layer_norm"),
    (r"attn\.proj", "attention.output.dense"),
    (r"mlp\.fc", "mlp.dense"),
)


@pytest.mark.parametrize("prefix", ["segformer.", ""])
def test_hugging_face_segformers_keys_and_values_are_joined(save, prefix):
    own = published_file("MiT_B0")[1]
    content = {}
    for ours, tensor in own.items():
        name = ours
        for pattern, replacement in HUGGING_FACE_RULES:
            name = re.sub(pattern, replacement, name)
        name = f"{prefix}encoder.{name}"
        if ".attn.kv." in name:
            keys, values = tensor.chunk(2)
            content[name.replace("attn.kv", "attention.self.key")] = keys.clone()
            content[name.replace("attn.kv", "attention.self.value")] = values.clone()
        else:
            content[name] = tensor
    content |= {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}
    network, lines = build_model("segformer", "MiT_B0", 3), []
    assert describe_file(save(content), network) == "backbone"
    report = load_backbone_weights(network, save(content), log=lines.append)
    assert same(network.backbone, own)
    assert report.complete and report.dropped == ["classifier.weight", "classifier.bias"]
    assert network.input_convention == IMAGENET_RGB and "read as Hugging Face SegFormer" in lines[0]
    value = f"{prefix}encoder.block.2.1.attention.self.value.weight"
    with untouched(network, rf"block3\.1\.attn\.kv\.weight \(there \S+key\.weight and {re.escape(value)}\)"):
        load_backbone_weights(network, save({k: v for k, v in content.items() if k != value}), log=silent)
    with untouched(network, r"1 of another shape or kind: block3\.1\.attn\.kv\.weight"):
        load_backbone_weights(network, save(content | {value: torch.zeros(160, 150)}), log=silent)


ALIKE = {
    "torchvision resnet18": (torchvision.models.resnet18, "resnet18", "plain ResNet with one 7x7"),
    "timm resnet18d": (timm_network("resnet18d"), "resnet18", "deep stem has 32-32-64 channels"),
    "ResNet-D with a wide stem": (timm_network("resnet50s", avg_down=True), "resnet50", "pooling in its shortcuts"),
    "timm mobilevit_xxs": (
        timm_network("mobilevit_xxs"),
        "mobilevit_xx_small",
        "an activation after each block's last 1x1 convolution",
    ),  # fmt: skip
}


@pytest.mark.parametrize("title", ALIKE)
def test_networks_that_only_look_alike_are_refused_with_the_reason(save, title):
    build, backbone, reason = ALIKE[title]
    network = build_model("deeplab_mobile" if backbone.startswith("mobile") else "psp", backbone, 3)
    path = save(build().state_dict())
    for allowed in (False, True):
        with untouched(network, f"{reason}.*--backbone timm:<name>; take the published file"):
            load_backbone_weights(network, path, allow_partial=allowed, log=silent)


def test_timms_mobilevit_differs_by_that_activation_and_by_nothing_else():
    source = randomise(timm.create_model("mobilevit_xxs"))
    backbone = build_model("deeplab_mobile", "mobilevit_xx_small", 3).backbone.eval()
    theirs = source.state_dict()
    backbone.load_state_dict(dict(zip(backbone.state_dict(), theirs.values(), strict=False)))  # the classifier is last
    source = with_our_geometry(source, backbone)
    x = batches(IMAGENET_RGB, 70, 91)[0]
    with torch.no_grad():
        expected = source.forward_features(x)
        assert (backbone(x)[-1] - expected).abs().max() > 1e-2 * expected.abs().max()
        for name, module in backbone.named_modules():
            if name.endswith("conv_proj") and isinstance(module, ConvBlock):
                module.register_forward_hook(lambda module, inputs, output: torch.nn.functional.silu(output))
        torch.testing.assert_close(backbone(x)[-1], expected, rtol=1e-4, atol=1e-4)
