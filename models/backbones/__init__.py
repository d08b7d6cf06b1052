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
from models.backbones.timm_probe import STRIDE_MARK, split_stride

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


def with_output_stride(name: str, output_stride: int | None) -> str:
    """The name of a timm backbone with an output stride: "timm:resnet50d" and 16 -> "timm:resnet50d@16".

    Raises:
        ValueError: another backbone, whose stride is the published one, or a name that asks for another stride.
    """
    if output_stride is None:
        return name
    if not name.lower().startswith(TIMM_PREFIX):
        raise ValueError(
            f"output stride {output_stride} with backbone {name}: expected timm:<name>; other backbones keep the "
            "published stride"
        )
    network, own = split_stride(name.partition(":")[2])
    if own not in (None, output_stride):
        raise ValueError(f"backbone {name} and output stride {output_stride} contradict each other: give one of them")
    return f"{TIMM_PREFIX}{network}{STRIDE_MARK}{output_stride}"


def build_backbone(name: str) -> nn.Module:
    """Build a backbone of `BACKBONES`, or any suitable network of timm as `timm:<name>[@<output stride>]`."""
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name.removeprefix(TIMM_PREFIX))
    return BACKBONES[name]()
