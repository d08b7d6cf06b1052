"""Layers shared by backbones and heads, and the initialisation of backbones."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE_DILATION = 8  # from here on oneDNN has no fast kernel in half precision; MobileNet and ResNet stay below


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
    """Convolution of stride 1 that keeps the size, with a large dilation.

    In half precision on a CPU it is computed tap by tap, as matrix products summed in float32: oneDNN has no fast
    kernel for it there and takes longer than in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64  # which autocast does not change
        half = torch.get_autocast_dtype("cpu") if cast else x.dtype
        if x.device.type != "cpu" or half not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        # Traced files cannot contain an autograd function, and are made without gradients.
        convolve = TapConvolution.apply if torch.is_grad_enabled() else convolve_taps
        return convolve(x.to(half), self.weight, self.bias, self.dilation)


def convolve_taps(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int]) -> Tensor:
    """A convolution of stride 1 that keeps the size, as a sum of matrix products, one for each tap of the kernel.

    Args:
        x: (N, C, H, W), of the type that the products are computed in.
        weight: (C_out, C, rows, columns), both odd, of any type.
        bias: (C_out,), of any type.
        dilation: pixels between taps, down and across.

    Returns:
        (N, C_out, H, W) of x's type, channels last in memory; the taps are summed in float32, or wider where x is.
    """
    rows, taps = _channels_last(x), _as_taps(weight, x.dtype)
    total = torch.zeros(*rows.shape[:3], len(weight), dtype=_sum_dtype(x), device=x.device)
    for tap, seen, reached in _list_overlaps(taps.shape[:2], dilation, x.shape[-2:]):
        total[reached] += F.linear(rows[seen].contiguous(), taps[tap])
    if bias is not None:
        total += bias
    return total.to(x.dtype).permute(0, 3, 1, 2)


class TapConvolution(torch.autograd.Function):
    """`convolve_taps` that keeps its input and weight, as they are, for the backward pass.

    Left to autograd, it would keep a copy of the input for every tap.
    """

    forward = staticmethod(convolve_taps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.dilation = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias, of their types.

        The upstream gradients, shifted for each tap, are concatenated, so that one product sums all taps before it
        rounds, and another covers the whole batch for each weight.
        """
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        x_grad = weight_grad = bias_grad = None
        upstream = _channels_last(upstream.to(x.dtype))  # N, H, W, C_out
        overlaps = _list_overlaps(weight.shape[2:], ctx.dilation, x.shape[-2:])
        if for_x or for_weight:
            carried = upstream.new_zeros(*upstream.shape[:3], len(overlaps), len(weight))
            for index, (_, seen, reached) in enumerate(overlaps):
                carried[seen][..., index, :] = upstream[reached]
            carried = carried.flatten(3).flatten(0, 2)  # N H W, taps C_out
        if for_x:
            taps = _as_taps(weight, x.dtype)
            rows_grad = carried @ torch.cat([taps[tap] for tap, _, _ in overlaps])  # N H W, C
            x_grad = rows_grad.unflatten(0, upstream.shape[:3]).permute(0, 3, 1, 2)
        if for_weight:
            parts = carried.t() @ _channels_last(x).flatten(0, 2)  # taps C_out, C
            weight_grad = torch.zeros_like(weight)  # a tap that sees nothing has no gradient
            for part, ((i, j), _, _) in zip(parts.split(len(weight)), overlaps, strict=True):
                weight_grad[:, :, i, j] = part
        if for_bias:
            bias_grad = upstream.sum((0, 1, 2), dtype=_sum_dtype(x)).to(ctx.bias_dtype)
        return x_grad, weight_grad, bias_grad, None


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _channels_last(x: Tensor) -> Tensor:
    """A map (N, C, H, W) as contiguous (N, H, W, C)."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def _as_taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight (C_out, C, rows, columns) as matrices (rows, columns, C_out, C)."""
    return weight.to(dtype).permute(2, 3, 0, 1).contiguous()


def _list_overlaps(
    kernel: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> list[tuple[tuple[int, int], tuple[slice, ...], tuple[slice, ...]]]:
    """For each tap that overlaps the map: its index, the part it reads, and the outputs it adds to, as indices."""
    shifts = [[(i - n // 2) * step for i in range(n)] for n, step in zip(kernel, dilation, strict=True)]
    overlaps = []
    for i, down in enumerate(shifts[0]):
        for j, right in enumerate(shifts[1]):
            if abs(down) < size[0] and abs(right) < size[1]:
                seen = (slice(None), _cut(down, size[0]), _cut(right, size[1]))
                reached = (slice(None), _cut(-down, size[0]), _cut(-right, size[1]))
                overlaps.append(((i, j), seen, reached))
    return overlaps


def _cut(shift: int, length: int) -> slice:
    """The positions of an axis that are still on it after a shift, in the shifted frame."""
    return slice(max(shift, 0), length + min(shift, 0))


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
        total = reach - stride + (stride - size % stride) % stride  # not negative: no kernel is smaller than its stride
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
    """Layers in sequence, plus the input if `adds_input`.

    The block of MobileNetV2, MobileNetV3 and MobileViT: expand, depthwise, (squeeze-excite,) project (Sandler et al.
    2018, arXiv:1801.04381, section 3.3). Their checkpoints name the layers differently.
    """

    def __init__(self, layers: dict[str, nn.Module] | Sequence[nn.Module], *, adds_input: bool) -> None:
        if isinstance(layers, dict):
            super().__init__(OrderedDict(layers))
        else:
            super().__init__(*layers)
        self.adds_input = adds_input

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return x + out if self.adds_input else out


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """Bilinear resizing of (N, C, H, W) to `size`; the same tensor if it has that size."""
    # An exported graph is for all sizes, so it must not depend on whether these two are equal.
    if not (torch.compiler.is_exporting() or torch.jit.is_tracing()) and x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def adaptive_avg_pools(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Average pools of (N, C, H, W) to s x s for each s of `sizes`, with the windows of `nn.AdaptiveAvgPool2d`.

    Window i of a side of length L is [floor(i L / s), ceil((i + 1) L / s)). With products with 0/1 matrices instead of
    `F.adaptive_avg_pool2d`, the map is read once for all sizes, the gradient is deterministic on GPUs too, and the
    exported graph is for any H and W.

    Returns:
        tensors (N, C, s, s).
    """
    if x.device.type == "meta":  # MACs are counted on it, and should not include these products
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
    """Windows of all sizes: matrix (S, length) and scale (S,), in x's type, whose product computes the means.

    The matrix has a power of two near 1 / count, exact in half precision, to keep sums from overflowing there; the
    scale, between 1 and 2, is the rest.
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


def initialize_backbone(backbone: nn.Module) -> None:
    """Draw fresh weights of a backbone in place, for training without an ImageNet file.

    Convolutions: He et al. 2015 (arXiv:1502.01852), variance 2 / fan-out, of one group if grouped. Linear layers:
    normal, truncated at two standard deviations of 0.02. Batch norm: the identity. Biases: 0. Other layers keep torch's
    initialisation.
    """
    for child in backbone.modules():
        if isinstance(child, nn.Conv2d):
            fan_out = child.out_channels // child.groups * math.prod(child.kernel_size)
            nn.init.normal_(child.weight, std=math.sqrt(2.0 / fan_out))
        elif isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02, a=-0.04, b=0.04)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
        else:
            continue
        if child.bias is not None:
            nn.init.zeros_(child.bias)
