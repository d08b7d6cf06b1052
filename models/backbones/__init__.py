"""Registry of backbones: name -> function without arguments that builds one with fresh weights."""

from collections.abc import Callable

from torch import nn

from models.backbones.mit import mit_b0, mit_b1, mit_b2, mit_b3, mit_b4, mit_b5
from models.backbones.mobilenetv2 import mobilenetv2
from models.backbones.mobilenetv3 import mobilenetv3_large, mobilenetv3_small
from models.backbones.mobilevit import mobilevit_xx_small
from models.backbones.resnet import resnet18, resnet50, resnet101

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "mobilenetv2": mobilenetv2,
    "mobilenetv3_small": mobilenetv3_small,
    "mobilenetv3_large": mobilenetv3_large,
    "mobilevit_xx_small": mobilevit_xx_small,
    "MiT_B0": mit_b0,
    "MiT_B1": mit_b1,
    "MiT_B2": mit_b2,
    "MiT_B3": mit_b3,
    "MiT_B4": mit_b4,
    "MiT_B5": mit_b5,
}
TIMM_PREFIX = "timm:"


def build_backbone(name: str) -> nn.Module:
    """Build a backbone by name; `timm:<name>` is any network of timm; ValueError lists what exists."""
    if name.startswith(TIMM_PREFIX):
        # Only here, because timm takes a second to import.
        from models.backbones.timm_backbone import TimmBackbone

        return TimmBackbone(name.removeprefix(TIMM_PREFIX))
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)} and {TIMM_PREFIX}<name>")
    return BACKBONES[name]()
