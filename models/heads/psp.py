"""Pyramid pooling head of PSPNet (Zhao et al. 2017, arXiv:1612.01105, section 3.2)."""

import torch
from torch import Tensor, nn

from models.layers import adaptive_avg_pools, conv_bn_relu, resize


class PyramidPooling(nn.Module):
    """Average pools of several sizes, each reduced to a quarter of the channels, and the map itself."""

    sizes = (1, 2, 3, 6)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        width = in_channels // 4
        for index in range(1, len(self.sizes) + 1):
            self.add_module(f"conv{index}", conv_bn_relu(in_channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for index, pooled in enumerate(adaptive_avg_pools(x, self.sizes), start=1):
            reduced = getattr(self, f"conv{index}")(pooled)  # N, C/4, size, size
            maps.append(resize(reduced, x.shape[-2:], align_corners=True))
        return torch.cat(maps, dim=1)  # N, 2C, h, w


class PSPHead(nn.Module):
    """Pyramid pooling, a 3x3 convolution whose output is the distilled map, and the classifier."""

    classifier_name = "classifier"
    pools_globally = True

    def __init__(self, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.psp = PyramidPooling(in_channels)
        self.block = nn.Sequential(*conv_bn_relu(in_channels + 4 * (in_channels // 4), width, 3), nn.Dropout(0.1))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits (N, K, h, w), features (N, width, h, w), inner map) at the size of the last stage."""
        inner = self.psp(stages[-1])
        features = self.block(inner)
        return self.classifier(features), features, inner
