"""Fresh weights of heads and of distillers' layers are torch's own, as in the published code."""

import math

import pytest
import torch
from torch import nn

from losses import build_distiller
from models import build_model, list_models

SMALLEST = {"resnet101": "resnet50"} | {f"MiT_B{size}": "MiT_B2" for size in (3, 4, 5)}  # the same heads
PAIRS = sorted(
    {(name, SMALLEST.get(backbone, backbone)) for name, all_of in list_models().items() for backbone in all_of}
)
TIMM_PAIRS = [(name, "timm:test_efficientnet") for name in ("deeplabv3", "pspnet", "upernet", "segformer")]
NUM_CLASSES = 19


def assert_torchs_own(name: str, module: nn.Conv2d) -> None:
    """Weight and bias uniform up to 1 / sqrt(fan-in), whose standard deviation is 1 / sqrt(3 fan-in)."""
    bound = 1 / math.sqrt(module.weight[0].numel())
    assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15), name
    assert module.weight.abs().max() <= bound * (1 + 1e-6), name
    if module.bias is not None:
        assert module.bias.abs().max() <= bound * (1 + 1e-6) and module.bias.std() > 0.3 * bound, name


@pytest.mark.parametrize("model, backbone", PAIRS + TIMM_PAIRS)
def test_every_convolution_of_a_head_is_as_torch_draws_it(monkeypatch, model, backbone):
    drawn = []  # only recorded: drawing takes long
    monkeypatch.setattr("models.base.initialize_backbone", drawn.append)
    torch.manual_seed(0)
    network = build_model(model, backbone, NUM_CLASSES, aux=True)
    assert drawn == ([] if backbone.startswith("timm:") else [network.backbone])
    modules = {name: m for name, m in network.named_modules() if name.startswith(("head.", "auxlayer."))}
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    assert set(network.classifier_names) <= set(convolutions)
    if model == "segformer":
        classifier = convolutions.pop("head.linear_pred")
        assert classifier.weight.std().item() == pytest.approx(math.sqrt(2 / NUM_CLASSES), rel=0.05)
        linear = [module for module in network.head.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == 4
        for module in linear:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05) and not module.bias.any()
    for name, module in convolutions.items():
        assert_torchs_own(name, module)


def test_timms_backbones_are_drawn_as_timm_does():
    """He's initialisation is for our own backbones only."""
    torch.manual_seed(0)
    network = build_model("psp", "timm:test_efficientnet", 19).backbone
    torch.manual_seed(0)
    alone = type(network)("test_efficientnet")
    for (name, ours), timms in zip(network.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(ours, timms), name


@pytest.mark.parametrize("method", ["cirkdv2", "fitnet", "cwd", "mgd"])
def test_what_a_distiller_trains_is_as_torch_draws_it(method):
    torch.manual_seed(0)
    distiller = build_distiller(method, (96, 8, 8), (160, 8, 8), 19, config=None)
    convolutions = {name: module for name, module in distiller.named_modules() if isinstance(module, nn.Conv2d)}
    assert convolutions
    for name, module in convolutions.items():
        assert_torchs_own(name, module)
