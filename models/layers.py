"""Small pieces that backbones and heads share, and how fresh weights are drawn."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE_DILATION = 8  # from which on oneDNN has no fast kernel in half precision; MobileNet and ResNet stay below


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, batch norm, ReLU: children "0", "1", "2"."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def conv(in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, **options: int) -> nn.Conv2d:
    """Convolution without bias, padded to keep the size at stride 1; further options go to `nn.Conv2d`."""
    padding = dilation * (kernel_size - 1) // 2
    wide = dilation >= WIDE_DILATION and all(value == 1 for value in options.values())
    kind = WideConv2d if wide else nn.Conv2d
    return kind(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False, **options)


class WideConv2d(nn.Conv2d):
    """Convolution of stride 1 that keeps the size, with so large a dilation that its taps are far apart.

    In half precision on a CPU it is computed tap by tap, as a matrix product of the part of the map that the tap sees,
    summed in float32: oneDNN has no fast kernel for it there and takes longer than in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        half = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or half not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        rows = x.to(half).permute(0, 2, 3, 1)  # N, H, W, C
        taps = self.weight.to(half).permute(2, 3, 0, 1).contiguous()  # rows, columns, C_out, C
        above, left = (_tap_shifts(count, step) for count, step in zip(self.kernel_size, self.dilation, strict=True))
        height, width = x.shape[-2:]
        total = x.new_zeros(x.shape[0], height, width, self.out_channels, dtype=torch.float32)
        for i, down in enumerate(above):
            for j, right in enumerate(left):
                if abs(down) >= height or abs(right) >= width:
                    continue
                seen = rows[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
                part = F.linear(seen.contiguous(), taps[i, j])
                total[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)] += part
        if self.bias is not None:
            total = total + self.bias
        return total.to(half).permute(0, 3, 1, 2)


def _tap_shifts(count: int, dilation: int) -> list[int]:
    """How far from the middle the taps of one axis lie."""
    return [(index - count // 2) * dilation for index in range(count)]


class SameConv2d(nn.Conv2d):
    """Convolution that pads at run time to out = ceil(in / stride), the smaller half left and above."""

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = self._padding(x.shape[-2], 0)
        left, right = self._padding(x.shape[-1], 1)
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        stride = self.stride[axis]
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        # (out - 1) * stride + reach - size, in a form that exported graphs compute right: ONNX divides towards zero.
        total = reach - stride + (stride - size % stride) % stride
        if reach < stride:
            total = max(total, 0)
        return total // 2, total - total // 2


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, activation or none: children `conv`, `bn`.

    Args:
        same: pad "SAME" at run time instead of dilation * (kernel_size - 1) / 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        same: bool = False,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        options = {"stride": stride, "dilation": dilation, "groups": groups}
        if same:
            self.conv: nn.Conv2d = SameConv2d(in_channels, out_channels, kernel_size, bias=False, **options)
        else:
            self.conv = conv(in_channels, out_channels, kernel_size, **options)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.activation is None else self.activation(x)


class InvertedResidual(nn.Sequential):
    """Layers one after the other, and the input added to the outcome where `adds_input`.

    MobileNetV2, MobileNetV3 and MobileViT share it: expand, depthwise, (squeeze-excite,) project
    (Sandler et al. 2018, arXiv:1801.04381, section 3.3). Their checkpoints name the layers differently.
    """

    def __init__(self, layers: dict[str, nn.Module] | Sequence[nn.Module], *, adds_input: bool) -> None:
        super().__init__()
        named = layers if isinstance(layers, dict) else {str(index): layer for index, layer in enumerate(layers)}
        for name, layer in named.items():
            self.add_module(name, layer)
        self.adds_input = adds_input

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return x + out if self.adds_input else out


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """Bilinear resizing of (N, C, H, W) to `size`; the very tensor where it has that size."""
    # An exported graph holds for all sizes, so it must not learn whether these two are equal.
    if not (torch.compiler.is_exporting() or torch.jit.is_tracing()) and x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def adaptive_avg_pools(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Average pools of (N, C, H, W) to s x s for each s of `sizes`, with the windows of `nn.AdaptiveAvgPool2d`.

    Window i of a side of length L is [floor(i L / s), ceil((i + 1) L / s)). As products with 0/1 matrices instead of
    `F.adaptive_avg_pool2d`: the map is read once for all sizes, the gradient is deterministic on GPUs too, and the
    exported graph holds for any H and W.

    Returns:
        tensors (N, C, s, s).
    """
    if x.device.type == "meta":  # shapes alone: by an operation that counts as no matrix product when costs are counted
        return [F.adaptive_avg_pool2d(x, size) for size in sizes]
    rows, row_scale = _windows(x, x.shape[-2], sizes)
    columns, column_scale = _windows(x, x.shape[-1], sizes)
    by_column = x @ columns.transpose(0, 1) * column_scale  # N, C, H, sum of sizes
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    pools = []
    for size, end in zip(sizes, ends, strict=True):
        part = slice(end - size, end)
        pools.append(rows[part] @ by_column[..., part] * row_scale[part].unsqueeze(1))
    return pools


def _windows(x: Tensor, length: int, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Windows of all sizes, one below the other, as x: matrix (S, length) and scale (S,) whose product is the mean.

    The matrix holds 0 and a power of two near 1 / count, which is exact in half precision and keeps sums from
    overflowing there; the scale, between 1 and 2, is the rest.
    """
    starts, ends = [], []
    for size in sizes:
        index = torch.arange(size, device=x.device)
        starts.append(index * length // size)
        ends.append(((index + 1) * length + size - 1) // size)
    start, end = torch.cat(starts).unsqueeze(1), torch.cat(ends).unsqueeze(1)
    position = torch.arange(length, device=x.device)
    count = (end - start).to(torch.float32)
    power = 2.0 ** torch.ceil(torch.log2(count))  # ONNX has no exp2
    matrix = ((position >= start) & (position < end)) / power
    return matrix.to(x.dtype), (power.double() / count).squeeze(1).to(x.dtype)


def initialize_weights(module: nn.Module, classifier_names: Iterable[str] = ()) -> None:
    """Draw fresh weights in place.

    Convolutions: He et al. 2015 (arXiv:1502.01852), variance 2 / fan-out, where the fan-out of a grouped convolution
    counts its group alone. Linear layers: normal, cut at two standard deviations of 0.02, without bias. Batch norm: the
    identity. Classifiers: normal with standard deviation 0.01, so that the first scores are nearly equal. Other layers
    keep torch's initialisation.

    Args:
        module: network.
        classifier_names: convolutions, by name, whose output channels are the classes.
    """
    classifiers = set(classifier_names)
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            fan_out = child.out_channels // child.groups * math.prod(child.kernel_size)
            nn.init.normal_(child.weight, std=0.01 if name in classifiers else math.sqrt(2.0 / fan_out))
        elif isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02, a=-0.04, b=0.04)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
        else:
            continue
        if child.bias is not None:
            nn.init.zeros_(child.bias)
