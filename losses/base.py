"""What every distillation method is to the trainer."""

from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor, nn

from utils.types import SegOutput, Step

IGNORE_INDEX = 255


def check_config(config: Any) -> None:
    """Refuses a method's settings that cannot be computed with.

    Args:
        config: dataclass; fields that end with `_weight` and `_temperature` are looked at.

    Raises:
        ValueError: a weight below 0 or a temperature not above 0; names the field.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_weight") and not 0 <= value < float("inf"):
            raise ValueError(f"{field.name} must be 0 or more, got {value}")
        if field.name.endswith("_temperature") and not 0 < value < float("inf"):
            raise ValueError(f"{field.name} must be above 0, got {value}")


def warmup_factor(step: Step, iterations: int) -> float:
    """Factor on all distillation weights, which rises linearly to 1 over so many iterations; 0 iterations give 1."""
    return min(1.0, (step.iteration + 1) / iterations) if iterations else 1.0


class Distiller(nn.Module):
    """A distillation loss with whatever it trains (adapters, projectors) and remembers (banks).

    It is a child of the one module that is trained, so that its parameters are reduced and optimised with the
    student's and its buffers are in the checkpoint. It never holds the teacher network.

    Subclasses are built as ``Method(student_shape, teacher_shape, num_classes, config)``, the shapes being (C, h, w) of
    the features at the training crop and ``config`` an instance of ``Method.Config``, a frozen dataclass of plain
    values whose defaults are the published settings.
    """

    Config: ClassVar[type]
    includes_kd: ClassVar[bool] = False
    """Whether the method was published beside pixel KD of weight 1, which it does not compute itself."""
    includes_adversarial: ClassVar[bool] = False
    """Whether the method was published beside the adversarial term, which it does not compute itself."""
    separate_terms: ClassVar[frozenset[str]] = frozenset()
    """Names of the terms that train `separate_parameters` alone and not the student."""
    needs_teacher_aux: bool = False
    """Whether ``teacher.aux_logits`` is read; where False the teacher may skip its auxiliary head."""

    def forward(
        self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None
    ) -> dict[str, Tensor]:
        """Compute the terms.

        Args:
            student: the student's output with its graph.
            teacher: the teacher's output, computed without gradient.
            target: (N, H, W) int64 train ids, 255 = ignored.
            step: where in the run this micro-batch stands; None is the first.

        Returns:
            "loss_<term>" -> 0-dimensional tensor, weighted, whose sum is the loss. A term of weight 0 is absent.
        """
        raise NotImplementedError

    def separate_parameters(self) -> list[nn.Parameter]:
        """Parameters that an optimiser of their own trains, stepped after the student's: those of a discriminator."""
        return []
