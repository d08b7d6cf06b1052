"""Registry of distillation methods."""

from collections.abc import Mapping
from typing import Any

from losses.base import Distiller, InnerShapes
from losses.combined import Combined
from losses.methods.adversarial import Adversarial
from losses.methods.af_dcd import AFDCD
from losses.methods.at import AT
from losses.methods.attnfd import AttnFD
from losses.methods.cirkd import CIRKD
from losses.methods.cirkdv2 import CIRKDV2
from losses.methods.cwd import CWD
from losses.methods.dist import DIST
from losses.methods.dkd import DKD
from losses.methods.dsd import DSD
from losses.methods.fitnet import FitNet
from losses.methods.ifvd import IFVD
from losses.methods.kd import KD
from losses.methods.mgd import MGD
from losses.methods.nfd import NFD
from losses.methods.skd import SKD

METHODS: dict[str, type[Distiller]] = {
    "kd": KD,
    "at": AT,
    "fitnet": FitNet,
    "skd": SKD,
    "ifvd": IFVD,
    "cwd": CWD,
    "adversarial": Adversarial,
    "dsd": DSD,
    "cirkd": CIRKD,
    "cirkdv2": CIRKDV2,
    "dist": DIST,
    "mgd": MGD,
    "dkd": DKD,
    "af_dcd": AFDCD,
    "nfd": NFD,
    "attnfd": AttnFD,
}


def build_distiller(
    method: str,
    student_shape: tuple[int, int, int],
    teacher_shape: tuple[int, int, int],
    num_classes: int,
    config: Any | Mapping[str, Any] | None = None,
    inner_shapes: InnerShapes | None = None,
) -> Distiller:
    """Build a distillation loss.

    Args:
        method: a key of METHODS.
        student_shape, teacher_shape: (C, h, w) of the features at the training crop.
        num_classes: number of classes.
        config: the method's ``Config``, a mapping of some of its fields, or None for the published settings.
        inner_shapes: as for `Distiller`.

    Raises:
        ValueError: unknown method or field, a value out of range, or a shape that is not (C, h, w).
    """
    if method not in METHODS:
        raise ValueError(f"unknown distillation method {method!r}: there are {', '.join(sorted(METHODS))}")
    for name, shape in (("student_shape", student_shape), ("teacher_shape", teacher_shape)):
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"{name} must be (channels, height, width), each at least 1, got {tuple(shape)}")
    method_class = METHODS[method]
    if config is None or isinstance(config, Mapping):
        options = dict(config or {})
        known = method_class.Config.__dataclass_fields__
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"{method} has no option {', '.join(unknown)}: there are {', '.join(known)}")
        config = method_class.Config(**options)
    return method_class(tuple(student_shape), tuple(teacher_shape), num_classes, config, inner_shapes)


def build_combined(
    configs: Mapping[str, Any],
    student_shape: tuple[int, int, int],
    teacher_shape: tuple[int, int, int],
    num_classes: int,
    distill_warmup_iters: int = 0,
    inner_shapes: InnerShapes | None = None,
) -> Combined:
    """Build the sum of several methods.

    Args:
        configs: method -> its config, as for `build_distiller`.
        student_shape, teacher_shape, num_classes, inner_shapes: as for `build_distiller`.
        distill_warmup_iters: iterations over which all weights rise linearly.
    """
    parts = {
        method: build_distiller(method, student_shape, teacher_shape, num_classes, config, inner_shapes)
        for method, config in configs.items()
    }
    return Combined(parts, distill_warmup_iters)
