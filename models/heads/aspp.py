"""Atrous spatial pyramid pooling head of DeepLabV3 (Chen et al. 2017, arXiv:1706.05587, section 3.3)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from models.layers import conv_bn_relu


class ImagePooling(nn.Module):
    """The global average of the map, spread over it again."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.gap(x)  # N, width, 1, 1
        # Bilinear resizing of a single pixel is a copy; expanding it also has a deterministic gradient.
        return pooled.expand(-1, -1, x.shape[-2], x.shape[-1])


class ASPP(nn.Module):
    """Five branches side by side, concatenated and projected to `width`, dropout 0.5."""

    def __init__(self, in_channels: int, width: int, rates: tuple[int, int, int]) -> None:
        super().__init__()
        self.b0 = conv_bn_relu(in_channels, width, 1)
        self.b1 = nn.Sequential(OrderedDict(block=conv_bn_relu(in_channels, width, 3, dilation=rates[0])))
        self.b2 = nn.Sequential(OrderedDict(block=conv_bn_relu(in_channels, width, 3, dilation=rates[1])))
        self.b3 = nn.Sequential(OrderedDict(block=conv_bn_relu(in_channels, width, 3, dilation=rates[2])))
        self.b4 = ImagePooling(in_channels, width)
        self.project = nn.Sequential(*conv_bn_relu(5 * width, width, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch(x) for branch in (self.b0, self.b1, self.b2, self.b3, self.b4)]
        return self.project(torch.cat(branches, dim=1))  # N, width, h, w


class ASPPHead(nn.Module):
    """ASPP with the given dilation rates, a 3x3 convolution whose output is the distilled map, and the classifier."""

    classifier_name = "block.4"
    pools_globally = True

    def __init__(
        self, in_channels: int, num_classes: int, width: int, rates: tuple[int, int, int] = (12, 24, 36)
    ) -> None:
        super().__init__()
        self.aspp = ASPP(in_channels, width, rates)
        self.block = nn.Sequential(*conv_bn_relu(width, width, 3), nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1))

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits (N, K, h, w), features (N, width, h, w), inner map) at the size of the last stage."""
        *layers, classifier = self.block
        features = inner = self.aspp(stages[-1])
        for layer in layers:
            features = layer(features)
        return classifier(features), features, inner
