"""Unified perceptual parsing head of UPerNet (Xiao et al. 2018, arXiv:1807.10221, section 3.1)."""

import torch
from torch import Tensor, nn

from models.layers import adaptive_avg_pools, conv_bn_relu, resize

POOLED_CHANNELS = 512


class UPerHead(nn.Module):
    """Pyramid pooling of the last stage, a feature pyramid over all four, and a fusion at half the finest size."""

    sizes = (1, 2, 3, 6)
    classifier_name = "conv_last.1"
    # The smallest pool is one value for the whole map, which has no variance over a single image.
    pools_globally = True
    output_stage = 0
    output_stride_factor = 2

    def __init__(self, channels: tuple[int, int, int, int], num_classes: int, width: int) -> None:
        super().__init__()
        *laterals, last = channels
        self.ppm_conv = nn.ModuleList(conv_bn_relu(last, POOLED_CHANNELS, 1) for _ in self.sizes)
        self.ppm_last_conv = conv_bn_relu(last + len(self.sizes) * POOLED_CHANNELS, width, 3)
        self.fpn_in = nn.ModuleList(conv_bn_relu(lateral, width, 1) for lateral in laterals)
        self.fpn_out = nn.ModuleList(nn.Sequential(conv_bn_relu(width, width, 3)) for _ in laterals)
        self.conv_last = nn.Sequential(
            conv_bn_relu(len(channels) * width, width, 3, stride=2), nn.Conv2d(width, num_classes, 1)
        )

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits (N, K, h, w), features (N, width, h, w), inner map) at half the size of the first stage."""
        *laterals, last = stages
        pools = [resize(pool, last.shape[-2:], align_corners=False) for pool in adaptive_avg_pools(last, self.sizes)]
        pools = [conv(pool) for conv, pool in zip(self.ppm_conv, pools, strict=True)]
        x = self.ppm_last_conv(torch.cat([last, *pools], dim=1))
        pyramid = [x]
        for index in reversed(range(len(laterals))):
            lateral = self.fpn_in[index](laterals[index])
            x = lateral + resize(x, lateral.shape[-2:], align_corners=False)
            pyramid.insert(0, self.fpn_out[index](x))
        finest = pyramid[0].shape[-2:]
        fused = torch.cat([resize(level, finest, align_corners=False) for level in pyramid], dim=1)
        convolution, classifier = self.conv_last
        features = convolution(fused)
        return classifier(features), features, fused
