"""CWD: channels as distributions over the positions (Shu et al., ICCV 2021, "Channel-wise Knowledge Distillation",
eq. 5)."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from losses.base import Distiller, Shape, Terms, temperature, weight
from losses.functional import compute_dtype, resize_like
from utils.settings import Settings, setting
from utils.types import SegOutput, Step

Scaling = Literal["corrected", "published"]


@dataclass(frozen=True)
class CWDConfig(Settings):
    cwd_fea_weight: float = weight(50.0, "on the features")
    cwd_logit_weight: float = weight(3.0, "on the logits")
    cwd_temperature: float = temperature(4.0, "divisor of the maps before the softmax over positions")
    cwd_scaling: Literal["corrected", "published"] = setting(
        "corrected",
        "corrected divides by the channels that are compared; published divides the term on the features by the "
        "student's channels before its adapter, which makes it C_T / C_S times as strong",
    )


class CWD(Distiller):
    """KL divergence of every channel's distribution over the positions, on features and on logits."""

    Config = CWDConfig
    includes_kd = True
    includes_adversarial = True

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        channels_s, channels_t = student_shape[0], teacher_shape[0]
        self.adapter = None
        if self.config.cwd_fea_weight > 0 and channels_s != channels_t:
            self.adapter = nn.Conv2d(channels_s, channels_t, 1, bias=False)
        self.feature_scale = channels_t / channels_s if self.config.cwd_scaling == "published" else 1.0

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_cwd_fea" and "loss_cwd_logit"; see :meth:`Distiller.forward`."""
        config = self.config
        losses: Terms = {}
        if config.cwd_fea_weight > 0:
            features = student.features if self.adapter is None else self.adapter(student.features)
            loss = channel_kl(resize_like(features, teacher.features), teacher.features, config.cwd_temperature)
            losses["loss_cwd_fea"] = loss * (self.feature_scale * config.cwd_fea_weight)
        if config.cwd_logit_weight > 0:
            loss = channel_kl(resize_like(student.logits, teacher.logits), teacher.logits, config.cwd_temperature)
            losses["loss_cwd_logit"] = loss * config.cwd_logit_weight
        return losses


def channel_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(softmax(T / temperature) || softmax(S / temperature)) over positions, mean over channels.

    Args:
        student: (B, C, h, w).
        teacher: (B, C, h, w); no gradient.
        temperature: divisor of both.

    Returns:
        0-dimensional, at least float32: mean over B * C.
    """
    dtype = compute_dtype(student)
    log_s = F.log_softmax(student.flatten(2).to(dtype) / temperature, dim=2)
    log_t = F.log_softmax(teacher.detach().flatten(2).to(dtype) / temperature, dim=2)
    total = F.kl_div(log_s, log_t, reduction="sum", log_target=True)
    return total * (temperature**2 / student.shape[:2].numel())
