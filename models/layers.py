"""Small pieces that backbones and heads share, and how fresh weights are drawn."""

import math
from collections.abc import Iterable

from torch import nn


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, batch norm, ReLU: children "0", "1", "2"."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def initialize_weights(module: nn.Module, classifier_names: Iterable[str] = ()) -> None:
    """Draw fresh weights in place.

    Convolutions: He et al. 2015 (arXiv:1502.01852), variance 2 / fan-out, where the fan-out of a grouped convolution
    counts its group alone. Batch norm: the identity. Classifiers: normal with standard deviation 0.01, so that the
    first scores are nearly equal. Other layers keep torch's initialisation.

    Args:
        module: network.
        classifier_names: convolutions, by name, whose output channels are the classes.
    """
    classifiers = set(classifier_names)
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            fan_out = child.out_channels // child.groups * math.prod(child.kernel_size)
            nn.init.normal_(child.weight, std=0.01 if name in classifiers else math.sqrt(2.0 / fan_out))
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
