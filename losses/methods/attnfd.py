"""Attention-guided feature distillation (Mansourian et al. 2024, arXiv:2403.05451)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.base import Distiller, Shape, Terms, weight
from losses.functional import resize_like, unit
from losses.modules.projection import projection
from utils.settings import Settings
from utils.types import SegOutput, Step

CHANNEL_RATIO = 16


@dataclass(frozen=True)
class AttnFDConfig(Settings):
    attnfd_weight: float = weight(1.0)


class AttnFD(Distiller):
    """Squared distance of the networks' maps, each refined by channel and spatial attention and of unit length.

    On the backbones' last maps, the heads' inner maps and the features. The student's attention is learned (CBAM, Woo
    et al. 2018, arXiv:1807.06521), the teacher's has no parameters. The published code takes the length over the whole
    batch; here it is each image's.
    """

    Config = AttnFDConfig

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        self.needs_inner = self.config.attnfd_weight > 0
        shapes = dict(self.inner_shapes) | {"features": (student_shape, teacher_shape)} if self.needs_inner else {}
        self.levels = nn.ModuleDict(
            {name: nn.Sequential(projection(s[0], t[0]), CBAM(t[0])) for name, (s, t) in shapes.items()}
        )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_attnfd", over all positions (ignored ones included); see :meth:`Distiller.forward`."""
        if not self.needs_inner:
            return {}
        total = 0
        for name, (project, refine) in self.levels.items():
            teacher_map = getattr(teacher, name).detach()
            student_map = refine(project(resize_like(getattr(student, name), teacher_map)))
            difference = unit(student_map.flatten(1), 1) - unit(plain_attention(teacher_map).flatten(1), 1)
            total = total + 2 * difference.square().sum(dim=1).mean()
        return {"loss_attnfd": total * self.config.attnfd_weight}


class CBAM(nn.Module):
    """Scales channels, then positions, by what it learns from their means and maxima."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // CHANNEL_RATIO, 1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        x = x * (self.mlp(_mean(x)) + self.mlp(_maximum(x))).sigmoid()
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * self.spatial(pooled).sigmoid()


def plain_attention(x: Tensor) -> Tensor:
    """The teacher's attention, from means and maxima alone: (N, C, h, w) -> the same shape."""
    x = x * (_mean(x) + _maximum(x)).sigmoid()
    return x * (x.amax(dim=1, keepdim=True) + x.mean(dim=1, keepdim=True)).sigmoid()


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


def _maximum(x: Tensor) -> Tensor:
    return x.amax(dim=(2, 3), keepdim=True)
