"""Backbones of timm: maps as declared, weights, and users' errors."""

import pytest
import timm
import torch

import train_kd
from engine.config.networks import NetworkConfig
from models import build_model
from models.backbones import build_backbone, with_output_stride
from models.backbones.timm_backbone import TimmBackbone
from models.base import PUBLISHED, InputConvention

# name -> (strides, what sides are padded to be divisible by)
NETWORKS = {
    "resnet18d": ((4, 8, 8, 8), 1),
    "mobilenetv3_small_100": ((4, 8, 8, 8), 1),
    "convnext_atto": ((4, 8, 8, 8), 8),
    "pvt_v2_b0": ((4, 8, 16, 32), 1),
    "swin_tiny_patch4_window7_224": ((4, 8, 16, 32), 8),
    "hrnet_w18_small": ((4, 8, 16, 32), 32),
    "tf_efficientnet_lite0@16": ((4, 8, 16, 16), 1),
    "tf_efficientnet_lite0@32": ((4, 8, 16, 32), 1),
    "vit_tiny_patch16_224": ((16, 16, 16, 16), 1),
}
# Small relatives, made for tests, of a network with strides, one that is padded and one with channels last.
SMALL = ("test_resnet", "test_convnext", "test_mambaout")


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_have_the_declared_channels_and_strides_at_any_size(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval()
    assert (backbone.strides, backbone.multiple) == NETWORKS[name]
    with torch.no_grad():
        stages = backbone(torch.randn(1, 3, 97, 131))
    pairs = zip(backbone.channels, backbone.strides, strict=True)
    assert [tuple(stage.shape) for stage in stages] == [(1, c, -(-97 // s), -(-131 // s)) for c, s in pairs]
    assert all(stage.isfinite().all() and stage.std() > 0 for stage in stages)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "test_mambaout"])
def test_stages_are_the_networks_own_maps(name):
    backbone = TimmBackbone(name).eval()
    classifier = timm.create_model(name).eval()
    names, dropped, unexpected = backbone.match_names([*classifier.state_dict(), "head.fourth.weight"])
    assert unexpected == ["head.fourth.weight"]
    assert names.keys() == backbone.state_dict().keys()
    assert dropped and all(name.startswith(("head", "norm")) for name in dropped)
    state = classifier.state_dict()
    backbone.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = classifier.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW")[-4:]
        for stage, own in zip(backbone(image), expected, strict=True):
            torch.testing.assert_close(stage, own)


def test_padding_is_zeros_right_and_below():
    backbone = TimmBackbone("test_convnext").eval()
    image = torch.randn(1, 3, 60, 91)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :60, :91] = image
    with torch.no_grad():
        for stage, whole in zip(backbone(image), backbone(padded), strict=True):
            assert torch.equal(stage, whole[..., : stage.shape[-2], : stage.shape[-1]])


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    backbone = TimmBackbone(name)
    sum(stage.square().mean() for stage in backbone(torch.randn(2, 3, 65, 70))).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_builds_on_the_meta_device():
    with torch.device("meta"):
        backbone = TimmBackbone("test_convnext")
    assert all(parameter.is_meta for parameter in backbone.parameters())
    assert [stage.shape[1] for stage in backbone(torch.empty(1, 3, 97, 131, device="meta"))] == list(backbone.channels)


def test_input_convention_is_that_of_the_weights_tag():
    imagenet = InputConvention("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert TimmBackbone("resnet18d").input_convention == imagenet
    own = timm.models.get_pretrained_cfg("mobilenetv3_large_100.miil_in21k_ft_in1k")
    tagged = TimmBackbone("mobilenetv3_large_100.miil_in21k_ft_in1k").input_convention
    assert (tagged.mean, tagged.std) == (tuple(own.mean), tuple(own.std)) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet5d", "similar names: .*resnet50d"),
        ("resnet50d.other", "no weights 'other' of resnet50d; there are: .*ra2_in1k"),
        ("resnet50d.", "'resnet50d.' ends with a dot: expected 'resnet50d', or resnet50d.<tag>"),
        ("resnet50d@half", "expected an output stride such as 16 after @"),
        ("pvt_v2_b0@8", "cannot have output stride 8; its own is 32"),
        ("mixer_s16_224", "one size only"),
        ("levit_128", r"3 feature maps of stride 4 or more .*needs 4"),
    ],
)
def test_unsuitable_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(f"timm:{name}")


def test_output_stride_is_part_of_the_backbones_name():
    assert (
        with_output_stride("TIMM:resnet18d", 16) == with_output_stride("timm:resnet18d@16", 16) == "timm:resnet18d@16"
    )
    assert with_output_stride("resnet18", None) == "resnet18"
    for name, message in (("resnet18", "expected timm:<name>"), ("timm:resnet18d@8", "contradict each other")):
        with pytest.raises(ValueError, match=message):
            with_output_stride(name, 16)
    assert NetworkConfig(backbone="timm:resnet18d", output_stride=16) == NetworkConfig(backbone="timm:resnet18d@16")
    words = ["--data", "x", "--dataset", "voc", "--teacher-pretrained", "x", "--method", "kd"]
    student = train_kd.parse([*words, "--student-backbone", "timm:resnet18d", "--student-output-stride", "32"]).networks
    assert student.student_backbone == "timm:resnet18d@32"


def test_failed_download_is_one_clear_error(monkeypatch):
    def unreachable(*args, **options):
        raise ConnectionError("no route to host")

    backbone = TimmBackbone("test_resnet")
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ValueError, match="test_resnet cannot be downloaded: ConnectionError: no route to host"):
        backbone.pretrained_state()


def test_network_without_weights_is_not_left_random():
    with pytest.raises(ValueError, match="timm has no weights of cspresnet50d"):
        TimmBackbone("cspresnet50d").pretrained_state()


@pytest.mark.parametrize(
    "model, name",
    [(model, "test_resnet") for model in ("deeplabv3", "pspnet", "upernet", "segformer")]
    + [("upernet_lite", name) for name in SMALL],
)
def test_every_head_is_compatible(model, name):
    network = build_model(model, f"timm:{name}", 5).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 3, 97, 131))
    stride = network.output_stride
    assert tuple(output.logits.shape) == (2, 5, -(-97 // stride), -(-131 // stride))
    assert output.features.shape[-2:] == output.logits.shape[-2:]
    assert network.input_convention != PUBLISHED
