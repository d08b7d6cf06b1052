"""Mix Transformers MiT-B0 to B5, the encoders of SegFormer (Xie et al. 2021, arXiv:2105.15203, section 3.1)."""

from collections import OrderedDict

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIO = 4
MAX_DROP_PATH = 0.1
NORM_EPS = 1e-6  # of blocks and stages; the other layer norms have torch's 1e-5


class OverlapPatchEmbed(nn.Module):
    """Strided convolution whose windows overlap, and a layer norm."""

    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size, stride=stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map (N, C, H, W) to tokens (N, h * w, dim) and (h, w)."""
        x = self.proj(x)
        return self.norm(_to_tokens(x)), (x.shape[-2], x.shape[-1])


class EfficientAttention(nn.Module):
    """Self-attention to keys and values of a map that is `reduction` times smaller (equations 2 and 3)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        n, length, dim = x.shape
        query = self.q(x).view(n, length, self.heads, dim // self.heads).transpose(1, 2)
        source = x if self.sr is None else self.norm(_to_tokens(self.sr(_to_map(x, size))))
        # 2, N, heads, keys, dim / heads
        key, value = self.kv(source).view(n, -1, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(n, length, dim))


class MixFeedForward(nn.Module):
    """Linear, 3x3 depthwise convolution instead of a positional encoding, GELU, linear (equation 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * dim
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)))
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = self.dwconv(_to_map(self.fc1(x), size))
        return self.fc2(F.gelu(_to_tokens(x)))


class Block(nn.Module):
    """Attention and feed-forward, each after a layer norm and with a shortcut."""

    def __init__(self, dim: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = EfficientAttention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MixFeedForward(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class MixTransformer(nn.Module):
    """MiT without its classifier.

    Args:
        channels: of the four stages.
        depths: blocks per stage.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, channels: tuple[int, int, int, int], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.channels = channels
        kernels = (7, 3, 3, 3)
        inputs = (3, *channels[:-1])
        for stage in range(4):
            embed = OverlapPatchEmbed(inputs[stage], channels[stage], kernels[stage], stride=4 if stage == 0 else 2)
            self.add_module(f"patch_embed{stage + 1}", embed)
        last_block = max(sum(depths) - 1, 1)
        for stage, (dim, depth) in enumerate(zip(channels, depths, strict=True)):
            first = sum(depths[:stage])
            rates = [MAX_DROP_PATH * (first + index) / last_block for index in range(depth)]
            blocks = [Block(dim, HEADS[stage], REDUCTIONS[stage], rate) for rate in rates]
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(dim, eps=NORM_EPS))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) to the four stages, at strides 4, 8, 16 and 32.

        Raises:
            ValueError: an image whose first stage is smaller than its attention's reduction.
        """
        smallest = self.strides[0] * (REDUCTIONS[0] - 1) + 1
        if min(x.shape[-2:]) < smallest:
            raise ValueError(
                f"images are {x.shape[-2]}x{x.shape[-1]}; a MiT backbone needs at least {smallest}x{smallest} pixels"
            )
        stages = []
        for stage in range(1, 5):
            x, size = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x, size)
            x = _to_map(getattr(self, f"norm{stage}")(x), size)
            stages.append(x)
        return stages


def _to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # N, H * W, C


def _to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)  # N, C, H, W; ONNX freezes `unflatten`
