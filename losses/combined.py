"""Several distillation methods at once."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.profiler import record_function

from losses.base import Distiller, Terms, warmup_factor
from utils.types import SegOutput, Step


class Combined(Distiller):
    """The terms of several methods side by side.

    Args:
        parts: method -> its distiller; no two give a term of the same name.
        distill_warmup_iters: iterations over which all weights rise linearly, but for a discriminator's own loss.
    """

    def __init__(self, parts: Mapping[str, Distiller], distill_warmup_iters: int = 0) -> None:
        nn.Module.__init__(self)  # its parts have the shapes and configs
        self.parts = nn.ModuleDict(parts)
        self.distill_warmup_iters = distill_warmup_iters
        self.needs_teacher_aux = any(part.needs_teacher_aux for part in parts.values())
        self.needs_inner = any(part.needs_inner for part in parts.values())

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return the terms of all parts; see :meth:`Distiller.forward`."""
        step = step or Step()
        factor = warmup_factor(step, self.distill_warmup_iters)
        losses: Terms = {}
        for method, part in self.parts.items():
            with record_function(f"method_{method}"):
                terms = part(student, teacher, target, step)
            assert not terms.keys() & losses.keys(), f"{method} gives {sorted(terms.keys() & losses.keys())} again"
            for name, value in terms.items():
                losses[name] = value if name in part.discriminator_terms else value * factor
        return losses

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Those of all parts; see :meth:`Distiller.discriminator_parameters`."""
        return [parameter for part in self.parts.values() for parameter in part.discriminator_parameters()]
