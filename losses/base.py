"""What every distillation method is to the trainer."""

from typing import ClassVar

from torch import Tensor, nn

from utils.types import SegOutput, Step

IGNORE_INDEX = 255


class Distiller(nn.Module):
    """A distillation loss with whatever it trains (adapters, projectors) and remembers (banks).

    It is a child of the one module that is trained, so that its parameters are reduced and optimised with the
    student's and its buffers are in the checkpoint. It never holds the teacher network.

    Subclasses are built as ``Method(student_shape, teacher_shape, num_classes, config)``, the shapes being (C, h, w) of
    the features at the training crop and ``config`` an instance of ``Method.Config``, a frozen dataclass of plain
    values whose defaults are the published settings.
    """

    Config: ClassVar[type]
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
