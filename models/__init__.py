"""Registry of segmentation networks."""

from pathlib import Path

from models.base import SegmentationNetwork
from models.deeplabv3 import DeepLabV3
from models.pspnet import PSPNet
from models.weights import load_backbone_weights

RESNETS = ("resnet18", "resnet50", "resnet101")
MOBILENETS_V3 = ("mobilenetv3_small", "mobilenetv3_large")

# name -> (class, auxiliary head unless asked otherwise, further arguments, backbones)
NETWORKS = {
    "deeplabv3": (DeepLabV3, True, {"width": 512}, RESNETS),
    "deeplabv3_mobilenet_ssseg": (DeepLabV3, False, {"width": 128}, MOBILENETS_V3),
    "psp": (PSPNet, True, {}, RESNETS),
    "psp_mobile": (PSPNet, False, {}, MOBILENETS_V3),
}

# plain name -> the networks it may mean; the backbone decides
ALIASES = {
    "deeplabv3": ("deeplabv3", "deeplabv3_mobilenet_ssseg"),
    "psp": ("psp", "psp_mobile"),
    "pspnet": ("psp", "psp_mobile"),
}


def build_model(
    name: str,
    backbone: str,
    num_classes: int,
    aux: bool | None = None,
    pretrained_base: str | Path | None = None,
) -> SegmentationNetwork:
    """Build a network with fresh weights, or with its backbone's weights from a file.

    Args:
        name: a name of `NETWORKS` or `ALIASES`.
        backbone: one of the network's backbones.
        num_classes: K.
        aux: whether it has an auxiliary head; None = as the released networks.
        pretrained_base: ImageNet backbone file; the whole backbone must be covered.

    Raises:
        ValueError: an unknown name, backbone or combination (lists what exists), a class count below 1, an unsuitable
            file.
        FileNotFoundError: no such file.
    """
    listing = "\n".join(f"  {model}: {', '.join(backbones)}" for model, backbones in list_models().items())
    candidates = [model for model in ALIASES.get(name, (name,)) if model in NETWORKS]
    if not candidates:
        raise ValueError(f"unknown model {name!r}; models and their backbones are\n{listing}")
    model = next((model for model in candidates if backbone in NETWORKS[model][3]), None)
    if model is None:
        raise ValueError(f"model {name!r} has no backbone {backbone!r}; models and their backbones are\n{listing}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; expected at least 1")
    network_class, default_aux, options, _ = NETWORKS[model]
    network = network_class(model, backbone, num_classes, aux=default_aux if aux is None else aux, **options)
    if pretrained_base is not None:
        load_backbone_weights(network, pretrained_base)
    return network


def list_models() -> dict[str, list[str]]:
    """Return the networks and the backbones each goes with."""
    return {name: list(entry[3]) for name, entry in NETWORKS.items()}
