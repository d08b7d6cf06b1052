"""The interface of distillation methods, and the declarations that their settings share."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from utils.settings import AT_LEAST_0, NON_NEGATIVE, POSITIVE, setting
from utils.types import SegOutput, Step

IGNORE_INDEX = 255
Shape = tuple[int, int, int]
InnerShapes = Mapping[str, tuple[Shape, Shape]]
"""Of the student's and the teacher's `last_stage` and `inner` maps."""
Terms = dict[str, Tensor]
"""Name "loss_<term>" -> 0-dimensional value."""


def weight(default: float, help: str = "") -> Any:
    """The setting of a term's weight; its name ends with `_weight` and its flag starts with `--lambda-`."""
    return setting(default, help, check=NON_NEGATIVE)


def temperature(default: float, help: str = "") -> Any:
    """The setting of a divisor."""
    return setting(default, help, check=POSITIVE)


def entries(default: int, help: str) -> Any:
    """The setting of a number of a bank's rows."""
    return setting(default, help, check=(lambda v: v >= 1, "a whole number of at least 1; a weight of 0 drops a term"))


def shared_seed() -> Any:
    """The setting of the run's seed, equal in all processes."""
    return setting(0, "of every random selection", flag=False)


def warmup_setting() -> Any:
    """The setting of the warm-up of all distillation weights."""
    return setting(0, "linear rise of all distillation weights", check=AT_LEAST_0)


def warmup_factor(step: Step, iterations: int) -> float:
    """Factor on all distillation weights, rising linearly to 1 within `iterations`; 1 if that is 0."""
    return min(1.0, (step.iteration + 1) / iterations) if iterations else 1.0


class Distiller(nn.Module):
    """A distillation loss with its trained modules (adapters, projectors) and memory banks.

    It is a child of the one module that is trained, so its parameters are reduced and optimised with the student's and
    its buffers are in the checkpoint. It never contains the teacher network.

    Subclasses have a ``Config``, a frozen dataclass whose defaults are the published settings, and make their modules
    in `build`.

    Args:
        student_shape, teacher_shape: (C, h, w) of the features at the training crop. Other sizes work too.
        num_classes: number of classes.
        config: an instance of ``Config``, None = the published settings.
        inner_shapes: of the further maps, for methods that read them.
    """

    Config: ClassVar[type]
    includes_kd: ClassVar[bool] = False
    """Whether the method was published together with pixel KD of weight 1, which it does not compute."""
    includes_adversarial: ClassVar[bool] = False
    """Whether the method was published together with the adversarial term, which it does not compute."""
    discriminator_terms: ClassVar[frozenset[str]] = frozenset()
    """Names of the terms that train `discriminator_parameters` alone and not the student."""
    needs_teacher_aux: bool = False
    """Whether ``teacher.aux_logits`` is read; if not, the teacher may skip its auxiliary head."""
    needs_inner: bool = False
    """Whether ``last_stage`` and ``inner`` of both outputs are read."""

    def __init__(
        self,
        student_shape: Shape,
        teacher_shape: Shape,
        num_classes: int,
        config: Any | None = None,
        inner_shapes: InnerShapes | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = config or self.Config()
        self.inner_shapes = inner_shapes or {}
        self.build(student_shape, teacher_shape)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Makes the modules of the method; `config`, `num_classes` and `inner_shapes` are set."""

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Compute the terms.

        Args:
            student: the student's output with its graph.
            teacher: the teacher's output, computed without gradient.
            target: (N, H, W) int64 train ids, 255 = ignored.
            step: where in the run this micro-batch stands; None is the first.

        Returns:
            the weighted terms, whose sum is the loss. A term of weight 0 is absent.
        """
        raise NotImplementedError

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters of a discriminator, trained by a separate optimiser that steps after the student's."""
        return []
