"""Registry of backbones: name -> function without arguments that builds one with fresh weights."""

from collections.abc import Callable

from torch import nn

from models.backbones.mobilenetv3 import mobilenetv3_large, mobilenetv3_small
from models.backbones.resnet import resnet18, resnet50, resnet101

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "mobilenetv3_small": mobilenetv3_small,
    "mobilenetv3_large": mobilenetv3_large,
}


def build_backbone(name: str) -> nn.Module:
    """Build a backbone by name; ValueError lists what exists."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)}")
    return BACKBONES[name]()
