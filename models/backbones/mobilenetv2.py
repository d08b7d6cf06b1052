"""MobileNetV2 with dilated last stages, output stride 8 (Sandler et al. 2018, arXiv:1801.04381, table 2)."""

from collections import OrderedDict

from torch import Tensor, nn

from models.layers import InvertedResidual, conv

# (expansion, channels, blocks, the paper's stride of the first block)
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# (first, last, dilation) of the dilated runs of features, counted from 0 = the stem
DILATIONS = ((7, 13, 2), (14, 17, 4))
STAGE_ENDS = (3, 6, 13, 17)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last 1x1 convolution and classifier; the layers are named `net.features`."""

    strides = (4, 8, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(*_conv_bn(3, 32, 3, stride=2), nn.ReLU6(inplace=True))]
        in_channels, widths = 32, [32]
        for expansion, channels, blocks, first_stride in ROWS:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                features.append(_block(in_channels, channels, expansion, stride, len(features)))
                in_channels = channels
                widths.append(channels)
        self.net = nn.ModuleDict({"features": nn.Sequential(*features)})
        self.channels = tuple(widths[end] for end in STAGE_ENDS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) to the four stages, at strides 4, 8, 8 and 8."""
        stages = []
        for index, layer in enumerate(self.net["features"]):
            x = layer(x)
            if index in STAGE_ENDS:
                stages.append(x)
        return stages


def _block(in_channels: int, out_channels: int, expansion: int, stride: int, index: int) -> nn.Sequential:
    """Expand, depthwise, project under the name `conv`; `index` is the block's place among the features."""
    adds_input = stride == 1 and in_channels == out_channels
    dilation = next((d for first, last, d in DILATIONS if first <= index <= last), 1)
    if dilation > 1 and stride == 2:
        # The stride is dropped; this block still looks at the grid of the stage before it.
        stride, dilation = 1, dilation // 2
    mid = in_channels * expansion
    layers: list[nn.Module] = []
    if expansion != 1:
        layers += [*_conv_bn(in_channels, mid, 1), nn.ReLU6(inplace=True)]
    layers += [*_conv_bn(mid, mid, 3, stride=stride, dilation=dilation, groups=mid), nn.ReLU6(inplace=True)]
    layers += _conv_bn(mid, out_channels, 1)
    return nn.Sequential(OrderedDict(conv=InvertedResidual(layers, adds_input=adds_input)))


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int, **options: int) -> list[nn.Module]:
    return [conv(in_channels, out_channels, kernel_size, **options), nn.BatchNorm2d(out_channels)]
