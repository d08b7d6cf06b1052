"""All-MLP head of SegFormer (Xie et al. 2021, arXiv:2105.15203, section 3.2)."""

import math

import torch
from torch import Tensor, nn

from models.layers import resize


class LinearEmbedding(nn.Module):
    """A linear layer on every pixel."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # N, dim, H, W


class SegFormerHead(nn.Module):
    """A linear layer per stage, all resized to the first stage and fused by a 1x1 convolution."""

    classifier_name = "linear_pred"
    pools_globally = False
    output_stage = 0

    def __init__(self, channels: tuple[int, int, int, int], num_classes: int, width: int) -> None:
        super().__init__()
        for stage in (4, 3, 2, 1):
            self.add_module(f"linear_c{stage}", LinearEmbedding(channels[stage - 1], width))
        self.linear_fuse = nn.Sequential(nn.Conv2d(4 * width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.linear_pred = nn.Conv2d(width, num_classes, 1)
        # As published: linear layers N(0, 0.02), classifier N(0, sqrt(2 / K)), no biases; the fusion is torch's.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.linear_pred.weight, std=math.sqrt(2.0 / num_classes))
        nn.init.zeros_(self.linear_pred.bias)

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits (N, K, h, w), features (N, width, h, w), inner map) at the size of the first stage."""
        size = stages[0].shape[-2:]
        embedded = [
            resize(getattr(self, f"linear_c{stage}")(stages[stage - 1]), size, align_corners=False)
            for stage in (4, 3, 2, 1)
        ]
        inner = torch.cat(embedded, dim=1)
        features = self.linear_fuse(inner)
        return self.linear_pred(features), features, inner
