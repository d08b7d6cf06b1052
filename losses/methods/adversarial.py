"""The adversarial term of SKD, IFVD and CWD: a discriminator separates the teacher's logits from the student's.

Liu et al., CVPR 2019, "Structured Knowledge Distillation", holistic distillation; layers after SAGAN, Zhang et al.,
ICML 2019.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from losses.base import Distiller, Shape, Terms, weight
from losses.functional import compute_dtype, resize_like
from utils.settings import Settings
from utils.types import SegOutput, Step

SMALLEST_SIDE = 64
"""Four convolutions of stride 2 reduce it to 4, the size of the last kernel."""
WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class AdversarialConfig(Settings):
    adv_weight: float = weight(0.001, "the student's term; at 0 there is no discriminator")
    d_weight: float = weight(0.1, "the discriminator's own loss; at 0 it stays as it was initialised")


class Adversarial(Distiller):
    """The student's term and the discriminator's own, for one backward pass together with all other losses.

    "loss_adv" has gradients for the student alone, because the discriminator's parameters are detached in it;
    "loss_d" for the discriminator alone, because it sees detached logits.
    """

    Config = AdversarialConfig
    discriminator_terms = frozenset({"loss_d"})

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        self.discriminator = None
        if self.config.adv_weight > 0:
            self.discriminator = Discriminator(self.num_classes)
            self.discriminator.requires_grad_(self.config.d_weight > 0)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_adv" and "loss_d"; see :meth:`Distiller.forward`."""
        if self.discriminator is None:
            return {}
        dtype = compute_dtype(student.logits)
        real = teacher.logits.detach().to(dtype)
        fake = resize_like(student.logits.to(dtype), real)
        constants = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        losses = {"loss_adv": -functional_call(self.discriminator, constants, (fake,)).mean() * self.config.adv_weight}
        if self.config.d_weight > 0:
            scores = self.discriminator(fake.detach()), self.discriminator(real)
            losses["loss_d"] = hinge_loss(*scores) * self.config.d_weight
        return losses

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Those of the discriminator; see :meth:`Distiller.discriminator_parameters`."""
        if self.discriminator is None or not self.config.d_weight:
            return []
        return list(self.discriminator.parameters())


def hinge_loss(fake: Tensor, real: Tensor) -> Tensor:
    """The discriminator's loss: mean relu(1 - D(T)) + mean relu(1 + D(S)).

    Args:
        fake: scores of the student's logits, any shape.
        real: scores of the teacher's logits, any shape.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


class Discriminator(nn.Module):
    """Logits -> scores, high where they look like the teacher's.

    Args:
        num_classes: channels of the logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_classes)
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            SpectralConv2d(inputs, outputs) for inputs, outputs in zip((num_classes, *WIDTHS), WIDTHS, strict=False)
        )
        self.attention3, self.attention4 = SelfAttention(WIDTHS[2]), SelfAttention(WIDTHS[3])
        self.last = nn.Conv2d(WIDTHS[3], 1, 4)

    def forward(self, logits: Tensor) -> Tensor:
        """Score windows of the map.

        Args:
            logits: (B, Y, h, w); a side below 64 is resized up to it.

        Returns:
            (B, 1, h // 16 - 3, w // 16 - 3), at least float32.
        """
        size = [max(side, SMALLEST_SIDE) for side in logits.shape[2:]]
        if size != list(logits.shape[2:]):
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        maps = self.norm(logits)
        maps = F.leaky_relu(self.conv1(maps), 0.1)
        maps = F.leaky_relu(self.conv2(maps), 0.1)
        maps = self.attention3(F.leaky_relu(self.conv3(maps), 0.1))
        maps = self.attention4(F.leaky_relu(self.conv4(maps), 0.1))
        scores = self.last(maps)
        return scores.to(compute_dtype(scores))


class SpectralConv2d(nn.Module):
    """4x4 convolution of stride 2 and padding 1 whose weight matrix is divided by its largest singular value.

    The value is estimated with one step of the power iteration per forward pass in training mode (Miyato et al.,
    ICLR 2018, algorithm 1), always in full precision.

    Args:
        in_channels, out_channels: of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, 4, 2, 1)  # for its initialisation
        self.weight_bar, self.bias = conv.weight, conv.bias
        self.register_buffer("weight_u", F.normalize(torch.randn(out_channels), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(conv.weight[0].numel()), dim=0))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h // 2, w // 2)."""
        with torch.autocast(maps.device.type, enabled=False):
            weight = self.weight_bar / self._spectral_norm(self.weight_bar.flatten(1))
        return F.conv2d(maps, weight, self.bias, 2, 1)

    def _spectral_norm(self, matrix: Tensor) -> Tensor:
        # The graph keeps copies: the next forward pass changes the buffers, before the backward pass.
        u, v = self.weight_u.clone(), self.weight_v.clone()
        if self.training:
            with torch.no_grad():
                v = F.normalize(matrix.mT @ u, dim=0)
                u = F.normalize(matrix @ v, dim=0)
                self.weight_u.copy_(u)
                self.weight_v.copy_(v)
        return u @ (matrix @ v)


class SelfAttention(nn.Module):
    """x + gamma * attention(x) over all positions of the map, gamma from 0 (SAGAN, eq. 3).

    Args:
        channels: C; queries and keys have C / 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        q, k, v = (conv(maps).flatten(2).mT for conv in (self.query_conv, self.key_conv, self.value_conv))
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)  # (B, L, C)
        return maps + self.gamma * attended.mT.unflatten(2, maps.shape[2:])
