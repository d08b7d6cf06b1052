"""CIRKD: cross-image relations of pixels and regions (Yang et al., CVPR 2022), the part of CIRKDV2 that came first."""

from dataclasses import asdict, dataclass
from typing import Literal

from losses.cirkdv2 import CIRKDV2, CIRKDV2Config
from losses.partners import Partners


@dataclass(frozen=True)
class CIRKDConfig:
    """Weights, sizes and temperatures; the defaults are the published ones (VOC: both memory weights 0.01).

    Attributes:
        minibatch_pixel_weight ... memory_region_weight: weight of each term; a term of weight 0 costs nothing.
        pixel_memory_size, region_memory_size: rows per class of the banks.
        pixel_contrast_size, region_contrast_size: keys drawn per step.
        contrast_temperature: of the similarities. contrast_kd_temperature: divides those of the memory terms again.
        minibatch_partners: images each image is compared with; see :mod:`losses.partners`.
        bank_dtype: of the banks' rows.
        relation_dtype: of the factors of the relations' matrix products.
        seed: of every random selection; equal in all processes.
    """

    minibatch_pixel_weight: float = 1.0
    memory_pixel_weight: float = 0.1
    memory_region_weight: float = 0.1
    pixel_memory_size: int = 20000
    region_memory_size: int = 2000
    pixel_contrast_size: int = 4096
    region_contrast_size: int = 1024
    contrast_temperature: float = 0.1
    contrast_kd_temperature: float = 1.0
    minibatch_partners: Partners = 2
    bank_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    relation_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        self.as_cirkdv2()  # whose checks are the same

    def as_cirkdv2(self) -> CIRKDV2Config:
        """The same with everything that CIRKDV2 added switched off, and pixel KD, which is a method of its own."""
        return CIRKDV2Config(
            kd_weight=0.0,
            fitnet_weight=0.0,
            minibatch_channel_weight=0.0,
            memory_channel_weight=0.0,
            channel_kd_weight=0.0,
            context=False,
            **asdict(self),
        )


class CIRKD(CIRKDV2):
    """Pixel relations across the images of the batch, and to a pixel bank and a region bank."""

    Config = CIRKDConfig
    includes_kd = True

    def __init__(
        self,
        student_shape: tuple[int, int, int],
        teacher_shape: tuple[int, int, int],
        num_classes: int,
        config: CIRKDConfig | None = None,
    ) -> None:
        super().__init__(student_shape, teacher_shape, num_classes, (config or CIRKDConfig()).as_cirkdv2())
