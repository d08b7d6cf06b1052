"""ImageNet weights from timm and torchvision by name: `timm:<name[.tag]>` and `torchvision:<name[.tag]>`.

Only networks that are the same as ours are taken (`PUBLIC_EQUIVALENTS`), and each name brings exactly the input
convention and batch-norm eps that the library declares for it.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.base import InputConvention
from models.conversions import PUBLIC_EQUIVALENTS, Conversion, conversion_for, public_equivalents
from models.state_files import StateFile

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

PREFIXES = ("timm:", "torchvision:")
BUILT_EPS = 1e-5  # of all our backbones


def is_source(path: str | Path | StateFile) -> bool:
    """Whether something given in place of a file names a library's weights; "timm" alone means the backbone's own."""
    return isinstance(path, (str, Path)) and (str(path) == "timm" or str(path).startswith(PREFIXES))


def fetch(source: str | Path, backbone_name: str, backbone: nn.Module) -> tuple[StateFile, Conversion]:
    """Get a library's ImageNet weights for a backbone.

    Args:
        source: "timm:<name[.tag]>", "torchvision:<name[.tag]>", or "timm" for a backbone that is timm's itself.
        backbone_name: registry name.
        backbone: the module.

    Returns:
        The weights, and how they go into the backbone, with the convention and eps that the library declares.

    Raises:
        ValueError: an unknown name or tag, a network that is not the same as the backbone, or weights that cannot be
            fetched; the message has the name and the cause.
    """
    source = str(source)
    if hasattr(backbone, "pretrained_state"):
        return _fetch_for_timm_backbone(source, backbone_name, backbone)
    library, _, full_name = source.partition(":")
    name, _, tag = full_name.partition(".")
    if f"{library}:{name}" not in PUBLIC_EQUIVALENTS.get(backbone_name, ()):
        raise ValueError(
            f"{source}: not known to be the same network as {backbone_name}; {public_equivalents(backbone_name)}"
        )
    _check_tag(library, name, tag)
    try:
        network = download(library, name, tag)
    except Exception as error:  # libraries raise whatever their download tools do
        raise ValueError(
            f"{source}: the weights cannot be had ({_first_line(error)}). They are fetched over the network on first "
            "use: check the connection, or give a file of them instead"
        ) from error
    state = {key: tensor.detach() for key, tensor in network.state_dict().items()}
    eps = {module.eps for module in network.modules() if isinstance(module, _BatchNorm)}
    if len(eps) != 1:
        raise ValueError(f"{source}: its batch norms have several eps: {sorted(eps)}; expected one")
    mean, std = _mean_and_std(library, name, tag, network)
    kind = replace(
        conversion_for(backbone_name, state),
        title=source,
        convention=InputConvention("RGB", 1.0 / 255.0, mean, std),
        batch_norm_eps=None if eps == {BUILT_EPS} else eps.pop(),
        note="",
    )
    return StateFile(source, state), kind


def download(library: str, name: str, tag: str) -> nn.Module:
    """Build a library's network with its weights, which the library fetches or has kept from an earlier time."""
    if library == "torchvision":
        from torchvision.models import get_model

        return get_model(name, weights=_torchvision_weights(name, tag))
    import timm

    return timm.create_model(f"{name}.{tag}" if tag else name, pretrained=True)


def _fetch_for_timm_backbone(source: str, backbone_name: str, backbone: nn.Module) -> tuple[StateFile, Conversion]:
    from models.backbones.timm_backbone import TimmBackbone

    own = backbone_name.removeprefix("timm:")
    wanted = own if source == "timm" else source.removeprefix("timm:")
    if wanted.split(".")[0] != own.split(".")[0]:
        raise ValueError(f"{source}: expected weights of {backbone_name}: timm, or timm:{own.split('.')[0]}.<tag>")
    if wanted not in (own, own.split(".")[0]):
        backbone = TimmBackbone(wanted)  # its names are the same; its weights and convention are the tag's
    state = backbone.pretrained_state()
    return StateFile(source, state), Conversion(f"timm:{wanted}", convention=backbone.input_convention)


def _check_tag(library: str, name: str, tag: str) -> None:
    """Refuse what the library has no weights of: timm would go on with random ones."""
    if library == "torchvision":
        _torchvision_weights(name, tag)
        return
    import timm

    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if not tags or (tag and tag not in tags):
        raise ValueError(f"timm has no weights {tag!r} of {name}; there are: {', '.join(tags) or 'none'}")


def _torchvision_weights(name: str, tag: str) -> "WeightsEnum":
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)
    if tag and tag not in weights.__members__:
        raise ValueError(f"torchvision has no weights {tag!r} of {name}; there are: {', '.join(weights.__members__)}")
    return weights[tag] if tag else weights.DEFAULT


def _mean_and_std(library: str, name: str, tag: str, network: nn.Module) -> tuple[tuple, tuple]:
    if library == "torchvision":
        preprocessing = _torchvision_weights(name, tag).transforms()
        return tuple(preprocessing.mean), tuple(preprocessing.std)
    return tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
