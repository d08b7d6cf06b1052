"""Normalised feature distillation (Liu et al. 2022, arXiv:2207.05256; at equal time, arXiv:2604.25530)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from losses.base import Distiller, Shape, Terms, weight
from losses.functional import compute_dtype, resize_like, unit
from losses.modules.projection import projection
from utils.distributed import all_gather_with_grad, get_world_size
from utils.settings import Settings, setting
from utils.types import SegOutput, Step

Norm = Literal["position", "channel"]


@dataclass(frozen=True)
class NFDConfig(Settings):
    nfd_weight: float = weight(4.0, "whose gradient at the recipe's crop is three quarters of the task's")
    nfd_norm: Norm = setting(
        "position", "position: vectors of unit length; channel: mean 0 and variance 1 over the batch's positions"
    )
    nfd_stages: bool = setting(False, "on the backbones' last maps too")


class NFD(Distiller):
    """Squared error of normalised maps, of which the student's is projected to the teacher's channels."""

    Config = NFDConfig
    includes_kd = True

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        config = self.config
        shapes = {"features": (student_shape, teacher_shape)} if config.nfd_weight else {}
        self.needs_inner = bool(config.nfd_weight and config.nfd_stages)
        if self.needs_inner:
            shapes["last_stage"] = self.inner_shapes["last_stage"]
        self.projections = nn.ModuleDict({name: projection(s[0], t[0]) for name, (s, t) in shapes.items()})

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_nfd", over all positions (ignored ones included); see :meth:`Distiller.forward`."""
        values = []
        for name, project in self.projections.items():
            teacher_map = getattr(teacher, name).detach()
            student_map = project(resize_like(getattr(student, name), teacher_map))
            values.append(normalized_error(student_map, teacher_map, self.config.nfd_norm))
        return {"loss_nfd": sum(values) * self.config.nfd_weight} if values else {}


def normalized_error(student: Tensor, teacher: Tensor, norm: Norm) -> Tensor:
    """Mean squared difference of normalised maps (B, C, h, w): 2 for independent maps, 0 for equal ones.

    With "channel", mean and variance are those of the global batch, of which each process holds an equal part.
    """
    if norm == "position":
        return (unit(student, 1) - unit(teacher, 1)).square().sum(dim=1).mean()
    return (_standardize_channels(student) - _standardize_channels(teacher)).square().mean()


def _standardize_channels(maps: Tensor) -> Tensor:
    maps = maps.to(compute_dtype(maps))
    centered = maps - _global_channel_mean(maps)
    variance = _global_channel_mean(centered.square())
    # of a channel that is constant, the gradient of the root would be infinite
    return centered / variance.clamp_min(1e-12).sqrt()


def _global_channel_mean(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (1, C, 1, 1), over the batches of all processes, with gradient."""
    means = all_gather_with_grad(maps.mean(dim=(0, 2, 3), keepdim=True))
    return means.sum(dim=0, keepdim=True) / get_world_size()
