"""A trained network as the programs that run one use it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.config.identify import Identity
from engine.config.schema import MachineConfig
from models import build_model
from models.base import SegmentationNetwork
from models.weights import StateFile, load_weights


def load_network(
    identity: Identity,
    weights: Path | StateFile,
    num_classes: int,
    machine: MachineConfig,
    device: torch.device,
    *,
    allow_partial: bool = False,
    log: Callable[[str], Any] = print,
) -> SegmentationNetwork:
    """Builds the network, loads its weights and moves it to the device.

    Args:
        identity, weights: what `identify_network` returned.
        num_classes: K.
        machine: gives the memory format.
        device: where it will run.
        allow_partial: the file may lack tensors.
        log: takes the report of the load.

    Raises:
        ValueError: the file's tensors are not those of the network.
    """
    network = build_model(identity.model, identity.backbone, num_classes)
    load_weights(network, weights, allow_partial=allow_partial, log=log)
    return network.to(device, memory_format=torch.channels_last if machine.channels_last else torch.preserve_format)
