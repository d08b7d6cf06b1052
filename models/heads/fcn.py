"""Fully convolutional head (Long et al. 2015, arXiv:1411.4038), used as auxiliary classifier of an inner stage."""

from torch import Tensor, nn

from models.layers import conv_bn_relu


class FCNHead(nn.Module):
    """A 3x3 convolution to a quarter of the channels and a classifier."""

    classifier_name = "block.4"

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        width = in_channels // 4
        self.block = nn.Sequential(
            *conv_bn_relu(in_channels, width, 3), nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K, h, w) of one stage (N, C, h, w)."""
        return self.block(x)
