"""Untrained networks whose predictions depend on the image."""

from pathlib import Path

import torch
from torch import nn

from models import build_model
from models.base import SegmentationNetwork


def build_varied(name: str, backbone: str, num_classes: int) -> SegmentationNetwork:
    """`build_model` without the classifiers' biases, beside which an untrained network's scores are all but constant.

    A test that compares predictions would otherwise compare one class with itself.
    """
    network = build_model(name, backbone, num_classes)
    for classifier in network.classifier_names:
        nn.init.zeros_(network.get_submodule(classifier).bias)
    return network


def save_varied(path: Path, names: tuple[str, str], num_classes: int) -> Path:
    """Writes the weights of such a network."""
    torch.manual_seed(3)
    torch.save(build_varied(*names, num_classes).state_dict(), path)
    return path
