"""Graph context module: every position of the student's features sees all positions of its image (CIRKDV2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.functional import pool4x4


class GraphContext(nn.Module):
    """Self-attention over positions, fused with its input.

    q, k, v are 1x1 convolutions to half the channels; the attention output goes back to all channels and is fused with
    the input: ReLU(BN(conv([x, ReLU(BN(conv(attention)))]))).

    Args:
        channels: C of input and output.
        pool_keys: average keys and values over 4x4 positions, for maps whose full attention costs too much.
    """

    def __init__(self, channels: int, pool_keys: bool = False) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.pool_keys = pool_keys
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.expand = nn.Sequential(
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine features (N, C, h, w) to the same shape."""
        key, value = self.key(x), self.value(x)
        if self.pool_keys:
            key, value = pool4x4(key), pool4x4(value)
        attended = F.scaled_dot_product_attention(_rows(self.query(x)), _rows(key), _rows(value))  # (N, 1, h*w, C/2)
        attended = attended.squeeze(1).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return self.fuse(torch.cat([x, self.expand(attended)], dim=1))


def _rows(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, 1, h*w, C): one attention head over positions."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
