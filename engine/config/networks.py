"""Settings of the networks of a run: the one that trains, and teacher and student."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models import list_models
from models.backbones import with_output_stride
from utils.settings import Settings, setting

PRETRAINED_BASE_HELP = (
    "ImageNet weights of the backbone: a file; timm:<name[.tag]> or torchvision:<name>, which are fetched; timm, for a "
    "timm backbone; or pip:<name>, those of an installed package"
)
BACKBONE_HELP = "python -m models lists the networks and their backbones; timm:<name> works with every model"

OutputStride = Literal[8, 16, 32] | None


def output_stride_setting() -> Any:
    """The setting of a timm backbone's stride, which becomes part of the backbone's name, by which it is saved."""
    return setting(None, "of a timm backbone (default: 8 where it can); the same as timm:<name>@16", parse=int)


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """The network of a run on labels alone."""

    model: str = setting("deeplabv3", ", ".join(list_models()))
    backbone: str = setting("resnet18", BACKBONE_HELP)
    output_stride: OutputStride = output_stride_setting()
    pretrained_base: Path | None = setting(
        None, PRETRAINED_BASE_HELP, per_host=True, options={"metavar": "FILE|SOURCE"}
    )
    pretrained: Path | None = setting(None, "weights of the whole network to start from", per_host=True)
    allow_partial: bool = setting(False, "accept weight files that cover only a part", resume="free")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "backbone", with_output_stride(self.backbone, self.output_stride))
        object.__setattr__(self, "output_stride", None)


@dataclass(frozen=True)
class DistillationConfig(Settings):
    """Teacher and student."""

    teacher_pretrained: Path = setting(help="its weights or run folder", per_host=True)
    teacher_model: str | None = setting(
        None, ", ".join(list_models()) + "; default: inferred from the file, or deeplabv3"
    )
    teacher_backbone: str | None = setting(None, "default: inferred from the file, or resnet101")
    student_model: str = setting("deeplabv3", ", ".join(list_models()))
    student_backbone: str = setting("resnet18", BACKBONE_HELP)
    student_output_stride: OutputStride = output_stride_setting()
    student_pretrained_base: Path | None = setting(
        None, PRETRAINED_BASE_HELP, per_host=True, options={"metavar": "FILE|SOURCE"}
    )
    student_pretrained: Path | None = setting(None, "weights of the whole student to start from", per_host=True)
    allow_partial: bool = setting(False, "accept weight files that cover only a part", resume="free")
    skip_teacher_check: bool = setting(
        False, "accept a teacher near chance, or one whose class names are others", resume="free"
    )
    teacher_dtype: Literal["float32", "bfloat16"] | None = setting(
        None,
        "precision that the teacher computes in; auto: as --amp",
        parse=lambda word: None if word == "auto" else word,
        options={"choices": (None, "float32", "bfloat16"), "metavar": "auto|float32|bfloat16"},
    )
    no_fold_teacher: bool = setting(False, "keep the teacher's batch norms apart from its convolutions", resume="free")
    balance: bool = setting(
        False,
        "in the first iterations, scale each term so that its gradient on the features has that share of the task's "
        "which its weight gives at the recipe's crop; the scales are logged and kept",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self, "student_backbone", with_output_stride(self.student_backbone, self.student_output_stride)
        )
        object.__setattr__(self, "student_output_stride", None)
