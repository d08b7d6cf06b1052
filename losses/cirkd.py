"""CIRKD: cross-image relations of pixels and regions (Yang et al., CVPR 2022), the part of CIRKDV2 that came first."""

from dataclasses import asdict, dataclass
from typing import Literal

from losses.base import Shape, entries, shared_seed, temperature, weight
from losses.cirkdv2 import CIRKDV2, CIRKDV2Config
from losses.memory_bank import BankDtype
from losses.partners import Partners, partners_setting
from utils.settings import Settings, setting


@dataclass(frozen=True)
class CIRKDConfig(Settings):
    """Settings; the defaults are the published ones (VOC: both memory weights 0.01)."""

    minibatch_pixel_weight: float = weight(1.0)
    memory_pixel_weight: float = weight(0.1)
    memory_region_weight: float = weight(0.1)
    pixel_memory_size: int = entries(20000, "pixel bank: rows kept per class")
    region_memory_size: int = entries(2000, "region bank: rows kept per class")
    pixel_contrast_size: int = entries(4096, "pixel bank: rows drawn a step")
    region_contrast_size: int = entries(1024, "region bank: rows drawn a step")
    contrast_temperature: float = temperature(0.1, "of the similarities")
    contrast_kd_temperature: float = temperature(1.0, "divides the similarities of the memory terms again")
    minibatch_partners: Partners = partners_setting()
    bank_dtype: BankDtype = setting("bfloat16", "of the banks' rows")
    relation_dtype: Literal["float32", "bfloat16"] = setting("float32", "of the relations' matrix products")
    seed: int = shared_seed()

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

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        self.config = self.config.as_cirkdv2()
        super().build(student_shape, teacher_shape)
