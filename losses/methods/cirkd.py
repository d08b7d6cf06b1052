"""CIRKD: cross-image relations of pixels and regions (Yang et al., CVPR 2022), the part of CIRKDV2 that came first."""

from dataclasses import asdict, dataclass
from typing import Literal

from losses.base import Shape
from losses.methods.cirkdv2 import CIRKDV2, CIRKDV2Config, PixelRelationConfig
from utils.settings import setting


@dataclass(frozen=True)
class CIRKDConfig(PixelRelationConfig):
    """Settings; the defaults are the published ones (VOC: both memory weights 0.01)."""

    relation_dtype: Literal["float32", "bfloat16"] = setting("float32", "of the relations' matrix products")

    def as_cirkdv2(self) -> CIRKDV2Config:
        """The same with everything that CIRKDV2 added switched off, and pixel KD, which is a separate method."""
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
