"""Registry of backbones: name -> function without arguments that builds one with fresh weights."""

from collections.abc import Callable
from functools import partial

from torch import nn

from models.backbones.mit import MixTransformer
from models.backbones.mobilenetv2 import MobileNetV2
from models.backbones.mobilenetv3 import LARGE, SMALL, MobileNetV3
from models.backbones.mobilevit import MobileViT
from models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from models.backbones.timm_backbone import TimmBackbone

MIT_SMALL, MIT_LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "mobilenetv2": MobileNetV2,
    "mobilenetv3_small": partial(MobileNetV3, SMALL, 576, ((4, 8, 2), (9, 11, 4)), stage_ends=(1, 3, 8, 12)),
    "mobilenetv3_large": partial(MobileNetV3, LARGE, 960, ((7, 12, 2), (13, 15, 4)), stage_ends=(3, 6, 12, 16)),
    "mobilevit_xx_small": MobileViT,
    "MiT_B0": partial(MixTransformer, MIT_SMALL, (2, 2, 2, 2)),
    "MiT_B1": partial(MixTransformer, MIT_LARGE, (2, 2, 2, 2)),
    "MiT_B2": partial(MixTransformer, MIT_LARGE, (3, 4, 6, 3)),
    "MiT_B3": partial(MixTransformer, MIT_LARGE, (3, 4, 18, 3)),
    "MiT_B4": partial(MixTransformer, MIT_LARGE, (3, 8, 27, 3)),
    "MiT_B5": partial(MixTransformer, MIT_LARGE, (3, 6, 40, 3)),
}
TIMM_PREFIX = "timm:"


def build_backbone(name: str) -> nn.Module:
    """Build a backbone of `BACKBONES`, or any suitable network of timm as `timm:<name>`."""
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name.removeprefix(TIMM_PREFIX))
    return BACKBONES[name]()
