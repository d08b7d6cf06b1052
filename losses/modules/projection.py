"""A student's map in the channels of the teacher's."""

from torch import nn


def projection(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution without bias and batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
