"""The cases in which numbers of processes are compared: methods and terms, networks, labels, validation images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from losses import METHODS
from models import build_model
from utils.types import SegOutput

CLASSES, BATCH = 4, 6
SMALL_BANKS = {
    "pixel_memory_size": 40,
    "region_memory_size": 8,
    "channel_memory_size": 300,
    "pixel_contrast_size": 40,
    "region_contrast_size": 16,
    "channel_contrast_size": 64,
    "bank_dtype": "float32",
}
RELATION_TERMS = (
    "kd fitnet minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel channel_kd".split()
)
LABELS = ("uneven", "ignored first half", "class in one image", "all ignored")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: for the table.
        configs: method -> options, as for `build_combined`.
        labels: one of LABELS.
        accumulate: micro-batches of 6 images in a step.
        freeze_bn: batch norms use their running statistics.
        loss: settings of the task's loss, as for `TaskLossConfig`.
        class_weights: of its cross entropy.
    """

    name: str
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: str = "uneven"
    accumulate: int = 1
    freeze_bn: bool = False
    loss: Mapping[str, Any] = field(default_factory=dict)
    class_weights: tuple[float, ...] | None = None


def _options(method: str, **options: Any) -> dict[str, Any]:
    known = METHODS[method].Config.__dataclass_fields__
    return {name: value for name, value in (SMALL_BANKS | options).items() if name in known}


def all_cases(companions: bool = True) -> list[Case]:
    """Every method, every relation term alone, and the hard cases of those that look at labels or other images.

    Args:
        companions: add pixel KD and the adversarial term to the methods that were published together with them.
    """
    cases = []
    for name, method in METHODS.items():
        beside = [other for other in ("kd", "adversarial") if companions and getattr(method, f"includes_{other}")]
        cases.append(Case(name, {part: _options(part) for part in (name, *beside)}))
    weights = [name for name in METHODS["cirkdv2"].Config.__dataclass_fields__ if name.endswith("_weight")]
    for term in RELATION_TERMS:
        alone = {weight: float(weight == f"{term}_weight") for weight in weights}
        cases.append(Case(f"cirkdv2, {term} alone", {"cirkdv2": _options("cirkdv2", **alone)}))
    together = {"cirkdv2": _options("cirkdv2", minibatch_partners=None), "dkd": {}, "ifvd": {}, "dist": {}, "mgd": {}}
    cases.append(Case("cirkdv2 with all partners", {"cirkdv2": together["cirkdv2"]}))
    for partners in ("local:1", "local:2", "local:3"):  # groups inside a process, and across two
        options = _options("cirkdv2", minibatch_partners=partners)
        cases.append(Case(f"cirkdv2, {partners}", {"cirkdv2": options}))
    cases.append(Case("cirkdv2, local:3, 2 micro-batches", {"cirkdv2": options}, accumulate=2))
    cases.append(Case("cirkdv2, frozen batch norms", {"cirkdv2": _options("cirkdv2")}, freeze_bn=True))
    for labels in LABELS[1:]:
        cases.append(Case(f"together, {labels}", together, labels))
    cases.append(Case("together, 2 micro-batches", together, "uneven", 2))
    cases.append(Case("together, 2 micro-batches, ignored first half", together, "ignored first half", 2))
    weights, added = (0.5, 3.0, 1.0, 2.0), {"dice": 0.5, "label_smoothing": 0.1}
    for name, ohem, labels, parts in (
        ("weights, Dice, hard fraction", "fraction:0.3", "uneven", 2),
        ("weights, Dice, hard threshold, all ignored", "threshold:0.2", "all ignored", 1),
    ):
        case = Case(name, {"kd": {}}, labels, parts, loss=added | {"ohem": ohem}, class_weights=weights)
        cases.append(case)
    return cases


class TinyNetwork(nn.Module):
    """One convolution, one classifier and an auxiliary one; all that a task needs of a network."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(3, channels, 3, stride, 1, bias=False)  # a bias before a batch norm has no gradient
        self.backbone = nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.Tanh(), nn.Dropout2d(0.5))
        self.classifier, self.auxiliary = (nn.Conv2d(channels, CLASSES, 1) for _ in range(2))

    def forward(self, images: Tensor, need_aux: bool = True, need_inner: bool = False) -> SegOutput:
        """(N, 3, H, W) -> maps at 1 / stride of the size."""
        features = self.backbone(images)
        return SegOutput(self.classifier(features), features, self.auxiliary(features), features, features)


def build_networks(kind: str) -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    """Student, teacher and crop size of "tiny" or "real"; their features differ in channels and, if tiny, in size."""
    torch.manual_seed(0)
    if kind == "tiny":
        return TinyNetwork(6, 4), TinyNetwork(10, 2), (26, 34)
    student = build_model("psp_mobile", "mobilenetv3_small", CLASSES)
    return student, build_model("deeplabv3", "resnet18", CLASSES), (64, 64)


def make_labels(kind: str, images: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Labels (images, H, W) with unequal numbers of valid pixels; `kind`, one of LABELS, shapes each 6 images."""
    target = torch.randint(0, CLASSES, (images, *size), generator=generator)
    index = torch.arange(images) % BATCH
    for image, place in enumerate(index.tolist()):  # from a sixth of the pixels in the first image to all in the last
        target[image, size[0] * (place + 1) // BATCH :] = 255
    if kind == "ignored first half":  # the first process has no valid pixel, neither of two nor of three
        target[index < BATCH // 2] = 255
    elif kind == "class in one image":
        target[(target == CLASSES - 1) & (index != BATCH - 1)[:, None, None]] = 0
    elif kind == "all ignored":
        target[:] = 255
    return target


class DrawnImages:
    """Images of different sizes and their labels, drawn anew at each access; what evaluation needs of a data set."""

    def __init__(self, count: int) -> None:
        self.count = self.num_labelled = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(index)
        size = (20 + index, 24 + 2 * index)
        image = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
        mask = torch.randint(0, CLASSES + 1, size, generator=generator, dtype=torch.uint8)
        return image.numpy(), torch.where(mask == CLASSES, 255, mask).numpy()
