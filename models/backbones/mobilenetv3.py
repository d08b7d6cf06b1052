"""MobileNetV3 small and large with dilated last stages, output stride 8.

Howard et al. 2019 (arXiv:1905.02244), tables 1 and 2. Blocks count from 1, the stem is layer 0.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch.nn.functional as F
from timm.layers import make_divisible
from torch import Tensor, nn

from models.layers import ConvBlock, InvertedResidual


class Row(NamedTuple):
    """One block of the paper's table; `stride` is the paper's, also where dilation replaces it."""

    kernel_size: int
    mid_channels: int
    out_channels: int
    squeeze: bool
    hard_swish: bool
    stride: int


SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)
LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)


class SqueezeExcite(nn.Module):
    """Scale channels by a gate of their global average (Hu et al., arXiv:1709.01507), with the hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = make_divisible(channels / 4)
        self.conv1 = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, width, 1)))
        self.conv2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(width, channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.conv1(F.adaptive_avg_pool2d(x, 1)), inplace=True)  # N, C/4, 1, 1
        return x * F.hardsigmoid(self.conv2(gate))  # clamp((x + 3) / 6, 0, 1)


def inverted_residual(in_channels: int, row: Row, *, dilation: int, dilated: bool) -> InvertedResidual:
    """Expand, depthwise, squeeze-excite, project; the input is added if the paper's stride is 1 and widths agree.

    A dilated block has stride 1, and pads as with the paper's stride.
    """
    act = nn.Hardswish if row.hard_swish else nn.ReLU
    mid = row.mid_channels
    layers: dict[str, nn.Module] = {}
    if in_channels != mid:
        layers["expand_conv"] = ConvBlock(in_channels, mid, activation=act(inplace=True))
    layers["depthwise_conv"] = ConvBlock(
        mid,
        mid,
        row.kernel_size,
        stride=1 if dilated else row.stride,
        dilation=dilation,
        groups=mid,
        same=row.stride == 2,
        activation=act(inplace=True),
    )
    if row.squeeze:
        layers["se"] = SqueezeExcite(mid)
    layers["linear_conv"] = ConvBlock(mid, row.out_channels)
    return InvertedResidual(layers, adds_input=row.stride == 1 and in_channels == row.out_channels)


class MobileNetV3(nn.Module):
    """MobileNetV3 without its classifier.

    Args:
        rows: the paper's table.
        last_channels: width of the last 1x1 convolution.
        dilations: (first, last, dilation) of the dilated runs of blocks, counted from 1.
        stage_ends: layers whose outputs are the four stages.
    """

    strides = (4, 8, 8, 8)

    def __init__(
        self,
        rows: tuple[Row, ...],
        last_channels: int,
        dilations: tuple[tuple[int, int, int], ...],
        stage_ends: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        self.num_layers = len(rows) + 2
        self.stage_ends = stage_ends
        self.layer0 = ConvBlock(3, 16, 3, stride=2, same=True, activation=nn.Hardswish(inplace=True))
        in_channels, widths = 16, {}
        for index, row in enumerate(rows, start=1):
            dilation = next((d for first, last, d in dilations if first <= index <= last), 1)
            self.add_module(
                f"layer{index}", inverted_residual(in_channels, row, dilation=dilation, dilated=dilation > 1)
            )
            in_channels = widths[index] = row.out_channels
        last = self.num_layers - 1
        self.add_module(f"layer{last}", ConvBlock(in_channels, last_channels, activation=nn.Hardswish(inplace=True)))
        widths[last] = last_channels
        self.channels = tuple(widths[end] for end in stage_ends)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) to the four stages, at strides 4, 8, 8 and 8."""
        stages = []
        for index in range(self.num_layers):
            x = getattr(self, f"layer{index}")(x)
            if index in self.stage_ends:
                stages.append(x)
        return stages
