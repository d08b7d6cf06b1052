"""CIRKDV2: cross-image relational knowledge distillation with contextual modelling."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from losses.base import Distiller, check_config, warmup_factor
from losses.context import GraphContext
from losses.functional import compute_dtype, pixel_kl, pool4x4, resize_like, unit
from losses.memory_bank import BANK_DTYPES
from losses.partners import Partners, check_partners
from losses.relation_products import RELATION_DTYPES
from losses.relations import ChannelMemory, PixelMemory, Purpose, minibatch_relation, random_keys
from utils.types import SegOutput, Step

LARGE_MAP = 256 * 256
"""Positions from which on full attention and full pixel-to-pixel relations cost too much."""


@dataclass(frozen=True)
class CIRKDV2Config:
    """Weights, sizes and temperatures; the defaults are the published ones.

    Attributes:
        kd_weight ... channel_kd_weight: weight of each term; a term of weight 0 costs nothing.
        pixel_memory_size, region_memory_size: rows per class of the banks. channel_memory_size: rows.
        pixel_contrast_size, region_contrast_size, channel_contrast_size: keys drawn per step.
        contrast_temperature: of the similarities. contrast_kd_temperature: divides those of the memory terms again.
        kd_temperature: of the logits.
        minibatch_partners: images each image is compared with; see :mod:`losses.partners`.
        context: the graph context module on or off, None = on unless the student's features have 256x256 positions or
            more; where it is on and they have, keys and values are averaged over 4x4.
        bank_dtype: bfloat16, float16 or float32.
        relation_dtype: float32 or bfloat16, of the factors of the relations' matrix products; see
            :func:`losses.functional.relation_kl`.
        distill_warmup_iters: all weights rise linearly over so many iterations.
        seed: of every random selection; equal in all processes.
    """

    kd_weight: float = 1.0
    fitnet_weight: float = 1.0
    minibatch_pixel_weight: float = 1.0
    memory_pixel_weight: float = 0.1
    memory_region_weight: float = 0.1
    minibatch_channel_weight: float = 1.0
    memory_channel_weight: float = 0.1
    channel_kd_weight: float = 100.0
    pixel_memory_size: int = 20000
    region_memory_size: int = 2000
    channel_memory_size: int = 10000
    pixel_contrast_size: int = 4096
    region_contrast_size: int = 1024
    channel_contrast_size: int = 2048
    contrast_temperature: float = 0.1
    contrast_kd_temperature: float = 1.0
    kd_temperature: float = 1.0
    minibatch_partners: Partners = 2
    context: bool | None = None
    bank_dtype: str = "bfloat16"
    relation_dtype: str = "float32"
    distill_warmup_iters: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_config(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_memory_size", "_contrast_size")) and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}: to drop a term set its weight to 0")
        check_partners(self.minibatch_partners)
        if self.bank_dtype not in BANK_DTYPES:
            raise ValueError(f"bank_dtype must be one of {', '.join(BANK_DTYPES)}, got {self.bank_dtype!r}")
        if self.relation_dtype not in RELATION_DTYPES:
            names = ", ".join(RELATION_DTYPES)
            raise ValueError(f"relation_dtype must be one of {names}, got {self.relation_dtype!r}")
        if self.distill_warmup_iters < 0:
            raise ValueError(f"distill_warmup_iters must be 0 or more, got {self.distill_warmup_iters}")


class CIRKDV2(Distiller):
    """Pixel distillation, context, and relations of pixels, regions and channels across images.

    The task loss sees the student's features as they are; every other term but the logits' sees them refined by the
    graph context module and resized to the teacher's size where that differs. Banks are written in training mode only.
    """

    Config = CIRKDV2Config

    def __init__(
        self,
        student_shape: tuple[int, int, int],
        teacher_shape: tuple[int, int, int],
        num_classes: int,
        config: CIRKDV2Config | None = None,
    ) -> None:
        """Build what the terms with weight need, and nothing else.

        Args:
            student_shape, teacher_shape: (C, h, w) of the features at the training crop. Other sizes work too.
            num_classes: Y.
            config: settings, None = the published ones.
        """
        super().__init__()
        self.config = config = config or CIRKDV2Config()
        student_channels, teacher_channels = student_shape[0], teacher_shape[0]
        dtype = BANK_DTYPES[config.bank_dtype]
        self.operand_dtype = RELATION_DTYPES[config.relation_dtype]

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
                num_classes,
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

    def forward(
        self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None
    ) -> dict[str, Tensor]:
        """Compute the weighted terms; see :meth:`Distiller.forward`.

        The batch that relations cross is the micro-batch of all processes together, of which each holds an equal,
        contiguous slice in the order of ranks.
        """
        step = step or Step()
        terms: dict[str, Tensor] = {}
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

    def _weight(self, term: str, step: Step) -> float:
        return getattr(self.config, f"{term}_weight") * warmup_factor(step, self.config.distill_warmup_iters)

    def _pixel_terms(self, student: Tensor, teacher: Tensor, target: Tensor, step: Step) -> dict[str, Tensor]:
        """Context, mini-batch pixel, memory pixel and memory region terms of maps (N, C, h, w)."""
        config = self.config
        terms: dict[str, Tensor] = {}
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

    def _channel_terms(self, student: Tensor, teacher: Tensor, step: Step) -> dict[str, Tensor]:
        """Mini-batch channel and memory channel terms and the error of the normalised channel maps."""
        config = self.config
        terms: dict[str, Tensor] = {}
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
            keys=random_keys(self.config.seed, step, Purpose.PARTNERS),
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
