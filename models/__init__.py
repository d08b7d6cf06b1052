"""Registry of segmentation networks."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import timm
from torch import nn

from models.backbones import BACKBONES, TIMM_PREFIX, build_backbone
from models.base import SegmentationNetwork
from models.heads.aspp import ASPPHead
from models.heads.fcn import FCNHead
from models.heads.psp import PSPHead
from models.heads.segformer import SegFormerHead
from models.heads.uper import UPerHead
from models.weights import load_backbone_weights
from utils.names import did_you_mean

RESNETS = ("resnet18", "resnet50", "resnet101")
MOBILENETS_V3 = ("mobilenetv3_small", "mobilenetv3_large")
MITS = ("MiT_B0", "MiT_B1", "MiT_B2", "MiT_B3", "MiT_B4", "MiT_B5")


class NetworkEntry(NamedTuple):
    """A network of the registry.

    Attributes:
        head: builds the head from the stages' channels, the class count and the backbone's name.
        backbones: the compatible ones, in addition to `timm:<name>`.
        aux: whether it has an auxiliary head by default.
    """

    head: Callable[[tuple[int, ...], int, str], nn.Module]
    backbones: tuple[str, ...]
    aux: bool = False


def _aspp_head(channels: tuple[int, ...], num_classes: int, backbone: str, width: int) -> ASPPHead:
    return ASPPHead(channels[-1], num_classes, width)


def _psp_head(channels: tuple[int, ...], num_classes: int, backbone: str) -> PSPHead:
    # The released networks: 256 feature channels on bottleneck ResNets, 128 on everything smaller.
    return PSPHead(channels[-1], num_classes, width=256 if channels[-1] >= 2048 else 128)


def _uper_head(channels: tuple[int, ...], num_classes: int, backbone: str, width: int) -> UPerHead:
    return UPerHead(channels, num_classes, width)


def _segformer_head(channels: tuple[int, ...], num_classes: int, backbone: str) -> SegFormerHead:
    # The released networks: 256 with MiT-B0 and B1, 768 with the larger ones.
    return SegFormerHead(channels, num_classes, width=768 if backbone in MITS[2:] else 256)


NETWORKS = {
    "deeplabv3": NetworkEntry(partial(_aspp_head, width=512), RESNETS, aux=True),
    "deeplabv3_mobilenet_ssseg": NetworkEntry(partial(_aspp_head, width=128), MOBILENETS_V3),
    "deeplab_mobile": NetworkEntry(partial(_aspp_head, width=128), ("mobilevit_xx_small", "mobilenetv2")),
    "psp": NetworkEntry(_psp_head, RESNETS, aux=True),
    "psp_mobile": NetworkEntry(_psp_head, (*MOBILENETS_V3, "mobilevit_xx_small", "mobilenetv2")),
    "upernet": NetworkEntry(partial(_uper_head, width=512), RESNETS, aux=True),
    "upernet_lite": NetworkEntry(partial(_uper_head, width=128), RESNETS, aux=True),
    "segformer": NetworkEntry(_segformer_head, MITS),
}

# plain name -> the networks it may mean; the backbone decides, and the first takes backbones of no published pair
ALIASES = {
    "deeplabv3": ("deeplabv3", "deeplabv3_mobilenet_ssseg", "deeplab_mobile"),
    "psp": ("psp", "psp_mobile"),
    "pspnet": ("psp", "psp_mobile"),
    "upernet": ("upernet",),
    "segformer": ("segformer",),
}


def resolve_names(name: str, backbone: str) -> tuple[str, str]:
    """Return the registry's names of a network and its backbone, given these or plain aliases, in any case.

    Aliases are compatible with every backbone, registry names with those of the released networks and with timm's.

    Raises:
        ValueError: an unknown name or combination; lists what exists.
    """
    listing = "\n".join(f"  {model}: {', '.join(entry.backbones)}" for model, entry in NETWORKS.items())
    listing += f"\n  each of them: {TIMM_PREFIX}<name of a network in timm>"
    listing += f"\n  {', '.join(ALIASES)}: every backbone"
    lower = {known.lower(): known for known in BACKBONES}
    backbone = lower.get(backbone.lower(), backbone)
    if backbone.lower().startswith(TIMM_PREFIX):
        backbone = TIMM_PREFIX + backbone[len(TIMM_PREFIX) :]
    plain = name.lower()
    candidates = [model for model in ALIASES.get(plain, (plain,)) if model in NETWORKS]
    if not candidates:
        hint = did_you_mean(name, [*NETWORKS, *ALIASES])
        raise ValueError(f"unknown model {name!r}.{hint} Models and their backbones are\n{listing}")
    model = next((model for model in candidates if backbone in NETWORKS[model].backbones), None)
    if model is None and (backbone.startswith(TIMM_PREFIX) or (plain in ALIASES and backbone in BACKBONES)):
        model = candidates[0]
    if model is None:
        hint = _timm_hint(backbone) or did_you_mean(backbone, BACKBONES)
        raise ValueError(
            f"model {name!r} has no backbone {backbone!r}.{hint} Models and their backbones are\n{listing}"
        )
    return model, backbone


def _timm_hint(backbone: str) -> str:
    """ " Did you mean timm:...?" where timm has networks of such a name, or ""."""
    name = backbone.lower()
    found = [name] if timm.is_model(name) else timm.list_models(f"*{name}*")[:3]
    if backbone in BACKBONES or not found:
        return ""
    return f" Did you mean {' or '.join(TIMM_PREFIX + other for other in found)}?"


def build_model(
    name: str, backbone: str, num_classes: int, aux: bool | None = None, pretrained_base: str | Path | None = None
) -> SegmentationNetwork:
    """Build a network with fresh weights, or with its backbone's weights from a file.

    Args:
        name: a name of `NETWORKS` or `ALIASES`.
        backbone: one of the network's backbones, or `timm:<name>`.
        num_classes: K.
        aux: whether it has an auxiliary head; None: as the released networks.
        pretrained_base: ImageNet backbone file or source, as for `load_backbone_weights`; the whole backbone must be
            covered.

    Raises:
        ValueError: an unknown name, backbone or combination (lists what exists), a class count below 1, an unsuitable
            file.
        FileNotFoundError: no such file.
    """
    model, backbone = resolve_names(name, backbone)
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; expected at least 1")
    entry = NETWORKS[model]
    encoder = build_backbone(backbone)
    network = SegmentationNetwork(
        model,
        backbone,
        num_classes,
        encoder,
        head=entry.head(encoder.channels, num_classes, backbone),
        auxlayer=FCNHead(encoder.channels[-2], num_classes) if (entry.aux if aux is None else aux) else None,
        flat_names=model == "segformer" and backbone in MITS,
    )
    if pretrained_base is not None:
        load_backbone_weights(network, pretrained_base)
    return network


def list_models() -> dict[str, list[str]]:
    """Return the networks and each one's compatible backbones, in addition to `timm:<name>`."""
    return {name: list(entry.backbones) for name, entry in NETWORKS.items()}
