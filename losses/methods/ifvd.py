"""IFVD: variation of the features within each class (Wang et al., ECCV 2020, "Intra-class Feature Variation
Distillation", eq. 1 to 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from losses.base import Distiller, Terms, weight
from losses.functional import resize_labels, resize_like, unit
from utils.settings import Settings
from utils.types import SegOutput, Step


@dataclass(frozen=True)
class IFVDConfig(Settings):
    ifv_weight: float = weight(20.0)


class IFVD(Distiller):
    """Squared difference of the cosines between each position and the prototype of its class in the image."""

    Config = IFVDConfig
    includes_kd = True
    includes_adversarial = True

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_ifv"; see :meth:`Distiller.forward`."""
        if not self.config.ifv_weight:
            return {}
        features = resize_like(student.features, teacher.features)
        loss = variation_loss(features, teacher.features, target, self.num_classes)
        return {"loss_ifv": loss * self.config.ifv_weight}


def variation_loss(student: Tensor, teacher: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """mean((cos(S, prototype_S) - cos(T, prototype_T))^2) over all positions.

    An ignored position is its own prototype: both its cosines are 1 and it adds nothing, but it is counted.

    Args:
        student: (B, C, h, w); the gradient flows through its prototypes too.
        teacher: (B, C', h, w); no gradient.
        target: (B, H, W) int64; values outside [0, num_classes) are ignored.
        num_classes: Y.

    Returns:
        0-dimensional, at least float32.
    """
    labels = resize_labels(target, student.shape[2:]).flatten(1)  # (B, L)
    valid = (labels >= 0) & (labels < num_classes)
    index = torch.where(valid, labels, 0)
    member = (labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None]).float()  # (B, Y, L)
    difference = _prototype_cosines(student, member, index) - _prototype_cosines(teacher.detach(), member, index)
    return torch.where(valid, difference, 0.0).square().mean()


def _prototype_cosines(maps: Tensor, member: Tensor, index: Tensor) -> Tensor:
    """Cosine of every position (B, C, h, w) with the prototype of its class, (B, L)."""
    rows = unit(maps.flatten(2), 1)  # (B, C, L), at least float32
    with torch.autocast(maps.device.type, enabled=False):
        member = member.to(rows.dtype)
        total = torch.bmm(member, maps.flatten(2).to(rows.dtype).mT)  # (B, Y, C)
        prototypes = total / (member.sum(dim=2) + 1e-6)[:, :, None]
        return torch.bmm(unit(prototypes, 2), rows).gather(1, index[:, None])[:, 0]
