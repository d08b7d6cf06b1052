"""Untrained networks whose predictions depend on the image."""

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
