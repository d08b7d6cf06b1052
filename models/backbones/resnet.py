"""ResNet with a deep stem and dilated last stages, output stride 8.

He et al. 2016 (arXiv:1512.03385); three 3x3 convolutions as stem (Szegedy et al., arXiv:1512.00567); strides of the
last two stages replaced by dilation 2 and 4 (Yu et al. 2017, arXiv:1705.09914).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import conv


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; with one of `dilations` each."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilations: tuple[int, int], downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride=stride, dilation=dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, dilation=dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        return F.relu(x + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 has the stride and the first of `dilations`."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilations: tuple[int, int], downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride=stride, dilation=dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        return F.relu(x + shortcut, inplace=True)


class ResNet(nn.Module):
    """Deep-stem ResNet.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks per stage.
    """

    strides = (4, 8, 8, 8)

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = conv(64, 64, 3)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = conv(64, 128, 3)
        self.bn3 = nn.BatchNorm2d(128)
        self.channels = tuple(width * block.expansion for width in (64, 128, 256, 512))
        self.layer1 = _stage(block, 128, 64, depths[0], stride=1, dilation=1)
        self.layer2 = _stage(block, self.channels[0], 128, depths[1], stride=2, dilation=1)
        self.layer3 = _stage(block, self.channels[1], 256, depths[2], stride=1, dilation=2)
        self.layer4 = _stage(block, self.channels[2], 512, depths[3], stride=1, dilation=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) to the four stages, at strides 4, 8, 8 and 8."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # N, 64, H/2, W/2
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)  # N, 128, H/2, W/2
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # N, 128, H/4, W/4
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            stages.append(x)
        return stages


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, depth: int, *, stride: int, dilation: int
) -> nn.Sequential:
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(conv(in_channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))
    # A stage's first block enters with the dilation of the stage before it, so that no pixel grid is skipped.
    blocks = [block(in_channels, width, stride, (max(dilation // 2, 1), dilation), downsample)]
    blocks += [block(out_channels, width, 1, (dilation, dilation)) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
