"""CIRKDV2: cross-image relational knowledge distillation with contextual modelling."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from losses.base import (
    Distiller,
    Shape,
    Terms,
    entries,
    shared_seed,
    temperature,
    warmup_factor,
    warmup_setting,
    weight,
)
from losses.functional import compute_dtype, pixel_kl, pool4x4, resize_like, unit
from losses.modules.context import GraphContext
from losses.modules.cross_image import ChannelMemory, PixelMemory, minibatch_relation
from losses.modules.memory_bank import BANK_DTYPES, BankDtype
from losses.modules.partners import Partners, partners_setting
from losses.random_streams import Stream, rng_key
from losses.relation.precision import RELATION_DTYPES
from utils.settings import Settings, setting
from utils.types import SegOutput, Step

LARGE_MAP = 256 * 256
"""Positions from which on full attention and full pixel-to-pixel relations cost too much."""


@dataclass(frozen=True)
class PixelRelationConfig(Settings):
    """What CIRKD and CIRKDV2 share: relations of pixels and regions across images. The defaults are the published ones.

    A term of weight 0 costs nothing.
    """

    minibatch_pixel_weight: float = weight(1.0, "pixel relations across the images of the batch")
    memory_pixel_weight: float = weight(0.1, "pixel relations to the pixel bank")
    memory_region_weight: float = weight(0.1, "pixel relations to the region bank")
    pixel_memory_size: int = entries(20000, "pixel bank: rows kept per class")
    pixel_contrast_size: int = entries(4096, "pixel bank: rows drawn a step")
    region_memory_size: int = entries(2000, "region bank: rows kept per class")
    region_contrast_size: int = entries(1024, "region bank: rows drawn a step")
    contrast_temperature: float = temperature(0.1, "of the similarities")
    contrast_kd_temperature: float = temperature(1.0, "divides the similarities of the memory terms again")
    minibatch_partners: Partners = partners_setting()
    bank_dtype: BankDtype = setting("bfloat16", "of the banks' rows")
    seed: int = shared_seed()


@dataclass(frozen=True)
class CIRKDV2Config(PixelRelationConfig):
    """Weights, sizes and temperatures; the defaults are the published ones."""

    kd_weight: float = weight(1.0, "pixel KD of the logits")
    fitnet_weight: float = weight(1.0, "context: adapted student features to the teacher's")
    minibatch_channel_weight: float = weight(1.0, "channel relations across the images of the batch")
    memory_channel_weight: float = weight(0.1, "channel relations to the channel bank")
    channel_kd_weight: float = weight(
        100.0, "normalised channel maps; scale it by p/512 for crops with p pooled positions"
    )
    channel_memory_size: int = entries(10000, "channel bank: rows kept")
    channel_contrast_size: int = entries(2048, "channel bank: rows drawn a step")
    kd_temperature: float = temperature(1.0, "of the logits")
    context: bool | None = setting(
        None, "graph context module on the student's features (default: unless they are 256x256 or larger)"
    )
    relation_dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "of the factors of the relations' matrix products; statistics and sums stay float32. bfloat16 is several times "
        "as fast; values change by up to 0.3 %% and gradients by up to 0.5 %% + 0.5 %% / sqrt(KL), 2.1 %% at a KL of "
        "0.1. auto takes it under autocast to bfloat16 (--amp bf16), and float32 otherwise",
    )
    distill_warmup_iters: int = warmup_setting()


class CIRKDV2(Distiller):
    """Pixel distillation, context, and relations of pixels, regions and channels across images.

    The task loss sees the student's features as they are; every other term but the logits' sees them refined by the
    graph context module and resized to the teacher's size where that differs. Banks are written in training mode only.
    """

    Config = CIRKDV2Config

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Build what the terms with weight need, and nothing else."""
        config = self.config
        student_channels, teacher_channels = student_shape[0], teacher_shape[0]
        dtype = BANK_DTYPES[config.bank_dtype]

        self.uses_pixel_memory = config.memory_pixel_weight > 0 or config.memory_region_weight > 0
        self.uses_channels = (
            config.minibatch_channel_weight > 0 or config.memory_channel_weight > 0 or config.channel_kd_weight > 0
        )
        self.uses_features = (
            config.fitnet_weight > 0
            or config.minibatch_pixel_weight > 0
            or self.uses_pixel_memory
            or self.uses_channels
        )

        self.context = None
        large = student_shape[1] * student_shape[2] >= LARGE_MAP
        if self.uses_features and (config.context if config.context is not None else not large):
            self.context = GraphContext(student_channels, pool_keys=large)
        self.adapter = None
        if config.fitnet_weight > 0:
            self.adapter = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        self.pixel_projector = self.pixel_memory = None
        if self.uses_pixel_memory:
            self.pixel_projector = make_projector(student_channels, teacher_channels)
            self.pixel_memory = PixelMemory(
                self.num_classes,
                teacher_channels,
                config.pixel_memory_size if config.memory_pixel_weight > 0 else 0,
                config.region_memory_size if config.memory_region_weight > 0 else 0,
                config.pixel_contrast_size,
                config.region_contrast_size,
                dtype,
                config.seed,
            )
        self.channel_projector = make_projector(student_channels, teacher_channels) if self.uses_channels else None
        self.channel_memory = None
        if config.memory_channel_weight > 0:
            pooled = (-(-teacher_shape[1] // 4), -(-teacher_shape[2] // 4))
            self.channel_memory = ChannelMemory(
                config.channel_memory_size, config.channel_contrast_size, pooled, dtype, config.seed
            )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Compute the weighted terms; see :meth:`Distiller.forward`.

        The batch that relations cross is the micro-batch of all processes together, of which each holds an equal,
        contiguous slice in the order of ranks.
        """
        step = step or Step()
        self.operand_dtype = self._operand_dtype(student.features.device)
        terms: Terms = {}
        if self.config.kd_weight > 0:
            with record_function("loss_kd"):
                terms["kd"] = pixel_kl(student.logits, teacher.logits, self.config.kd_temperature)
        if self.uses_features:
            with record_function("context"):
                features = student.features if self.context is None else self.context(student.features)
            features, teacher_features = resize_like(features, teacher.features), teacher.features.detach()
            terms |= self._pixel_terms(features, teacher_features, target, step)
            if self.uses_channels:
                terms |= self._channel_terms(features, teacher_features, step)
        return {f"loss_{name}": value * self._weight(name, step) for name, value in terms.items()}

    def _operand_dtype(self, device: torch.device) -> torch.dtype | None:
        """Of the relations' factors; None is their own."""
        if self.config.relation_dtype != "auto":
            return RELATION_DTYPES[self.config.relation_dtype]
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        return torch.bfloat16 if autocast is torch.bfloat16 else None

    def _weight(self, term: str, step: Step) -> float:
        return getattr(self.config, f"{term}_weight") * warmup_factor(step, self.config.distill_warmup_iters)

    def _pixel_terms(self, student: Tensor, teacher: Tensor, target: Tensor, step: Step) -> Terms:
        """Context, mini-batch pixel, memory pixel and memory region terms of maps (N, C, h, w)."""
        config = self.config
        terms: Terms = {}
        if self.adapter is not None:
            with record_function("loss_fitnet"):
                terms["fitnet"] = _mean_squared_error(self.adapter(student), teacher)
        if config.minibatch_pixel_weight > 0:
            pool = pool4x4 if teacher.shape[2] * teacher.shape[3] >= LARGE_MAP else nn.Identity()
            with record_function("loss_minibatch_pixel"):
                terms["minibatch_pixel"] = self._minibatch(step)(pool(student), pool(teacher), row_dim=2)
        if self.pixel_memory is not None:
            terms |= self.pixel_memory(
                self.pixel_projector(student),
                teacher,
                target,
                step,
                config.contrast_temperature,
                config.contrast_kd_temperature,
                self.operand_dtype,
            )
        return terms

    def _channel_terms(self, student: Tensor, teacher: Tensor, step: Step) -> Terms:
        """Mini-batch channel and memory channel terms and the error of the normalised channel maps."""
        config = self.config
        terms: Terms = {}
        student, teacher = self.channel_projector(pool4x4(student)), pool4x4(teacher)  # (N, C, ceil(h/4), ceil(w/4))
        if config.minibatch_channel_weight > 0:
            with record_function("loss_minibatch_channel"):
                terms["minibatch_channel"] = self._minibatch(step)(student, teacher, row_dim=1)
        if self.channel_memory is not None:
            with record_function("loss_memory_channel"):
                terms["memory_channel"] = self.channel_memory(
                    student,
                    teacher,
                    step,
                    config.contrast_temperature,
                    config.contrast_kd_temperature,
                    self.operand_dtype,
                )
        if config.channel_kd_weight > 0:
            with record_function("loss_channel_kd"):
                terms["channel_kd"] = _mean_squared_error(unit(student.flatten(2), 2), unit(teacher.flatten(2), 2))
        return terms

    def _minibatch(self, step: Step) -> Callable[..., Tensor]:
        return partial(
            minibatch_relation,
            partners=self.config.minibatch_partners,
            temperature=self.config.contrast_temperature,
            key=rng_key(self.config.seed, step, Stream.PARTNERS),
            operand_dtype=self.operand_dtype,
        )


def make_projector(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution, batch norm, ReLU, 1x1 convolution, to the teacher's channels; convolutions without bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 1, bias=False),
    )


def _mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    dtype = compute_dtype(student)
    return F.mse_loss(student.to(dtype), teacher.to(dtype))
