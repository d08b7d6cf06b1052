"""MobileViT-XXS with dilated last stages, output stride 8 (Mehta and Rastegari 2021, arXiv:2110.02178)."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ConvBlock, InvertedResidual, resize

EXPANSION = 2
HEADS = 4
PATCH = 2


class PackedAttention(nn.Module):
    """Multi-head self-attention of `dim` channels with the parameters' names of `nn.MultiheadAttention`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Only for its parameters, so that names and initial values are torch's own.
        self.attn = nn.MultiheadAttention(dim, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (S, L, E) to (S, L, E)."""
        sequences, length, dim = x.shape
        packed = F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        # 3, S, heads, L, E / heads
        query, key, value = packed.view(sequences, length, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.attn.out_proj(out.transpose(1, 2).reshape(sequences, length, dim))


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each after a layer norm and with a shortcut."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.attn = PackedAttention(dim)
        self.ln2 = nn.LayerNorm(dim)
        layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), nn.SiLU()), nn.Linear(hidden, dim))
        self.ffn = nn.Sequential(OrderedDict(layers=layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class MobileViTBlock(nn.Module):
    """Local convolutions, attention between equal places of all patches, fusion with the input (section 3.1).

    Args:
        channels: of input and output.
        dim: of the transformer.
        hidden: of its feed-forward layers.
        depth: number of transformer layers.
    """

    def __init__(self, channels: int, dim: int, hidden: int, depth: int) -> None:
        super().__init__()
        project = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, dim, 1, bias=False)))
        self.local_rep = nn.Sequential(ConvBlock(channels, channels, 3, activation=nn.SiLU(inplace=True)), project)
        self.global_rep = nn.Sequential(*(TransformerLayer(dim, hidden) for _ in range(depth)), nn.LayerNorm(dim))
        self.conv_proj = ConvBlock(dim, channels)
        self.conv_fusion = ConvBlock(2 * channels, channels, 3, activation=nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        local = self.local_rep(x)  # N, E, H, W
        size = local.shape[-2:]
        even = tuple((side + PATCH - 1) // PATCH * PATCH for side in size)
        sequences = _unfold(resize(local, even, align_corners=False))
        whole = _fold(self.global_rep(sequences), even)
        whole = self.conv_proj(resize(whole, size, align_corners=False))
        return self.conv_fusion(torch.cat([x, whole], dim=1))


def _unfold(x: Tensor) -> Tensor:
    """Turn (N, E, H, W) into one sequence for each place within a patch: (N * 4, H/2 * W/2, E)."""
    n, dim, height, width = x.shape
    x = x.view(n, dim, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.permute(0, 3, 5, 2, 4, 1).reshape(n * PATCH**2, (height // PATCH) * (width // PATCH), dim)


def _fold(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `_unfold`."""
    height, width = size
    dim = x.shape[-1]
    x = x.view(-1, PATCH, PATCH, height // PATCH, width // PATCH, dim)  # N, row, column, H/2, W/2, E
    return x.permute(0, 5, 3, 1, 4, 2).reshape(-1, dim, height, width)


class MobileViT(nn.Module):
    """MobileViT-XXS without its classifier."""

    channels = (24, 48, 64, 320)
    strides = (4, 8, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 16, 3, stride=2, activation=nn.SiLU(inplace=True))
        self.layers = nn.ModuleList(
            [
                nn.Sequential(_inverted_residual(16, 16)),
                nn.Sequential(_inverted_residual(16, 24, stride=2), *(_inverted_residual(24, 24) for _ in range(2))),
                nn.Sequential(_inverted_residual(24, 48, stride=2), MobileViTBlock(48, dim=64, hidden=128, depth=2)),
                nn.Sequential(_inverted_residual(48, 64, dilation=2), MobileViTBlock(64, dim=80, hidden=160, depth=4)),
                nn.Sequential(_inverted_residual(64, 80, dilation=4), MobileViTBlock(80, dim=96, hidden=192, depth=3)),
            ]
        )
        self.conv_1x1_exp = ConvBlock(80, self.channels[-1], activation=nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) to the four stages, at strides 4, 8, 8 and 8."""
        x = self.stem(x)
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return [*outputs[1:4], self.conv_1x1_exp(x)]


def _inverted_residual(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    mid = EXPANSION * in_channels
    layers = [
        ConvBlock(in_channels, mid, activation=nn.SiLU(inplace=True)),
        ConvBlock(mid, mid, 3, stride=stride, dilation=dilation, groups=mid, activation=nn.SiLU(inplace=True)),
        ConvBlock(mid, out_channels),
    ]
    block = InvertedResidual(layers, adds_input=stride == 1 and in_channels == out_channels)
    return nn.Sequential(OrderedDict(conv=block))
