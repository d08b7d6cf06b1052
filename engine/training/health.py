"""Whether each loss term teaches: its gradient on the shared features beside the task's, and how full the banks are."""

from collections.abc import Mapping

from torch import nn

from losses.gradients import TASK
from losses.modules.memory_bank import MemoryBank

# Shares of the task gradient's norm below which a term is as good as absent, and above which the task is.
VANISHING, DOMINATING = 1e-4, 10.0


def bank_filling(module: nn.Module) -> dict[str, float]:
    """Share of rows written, 0 to 1, of every memory bank in a module, by the bank's name."""
    banks = {name: child for name, child in module.named_modules() if isinstance(child, MemoryBank)}
    return {name: float(bank.queue_count.sum()) / (bank.num_queues * bank.size) for name, bank in banks.items()}


class LossHealth:
    """Turns measurements into warnings, each given once until it is over."""

    def __init__(self) -> None:
        self._current: set[tuple[str, str]] = set()

    def warnings(self, health: Mapping[str, Mapping[str, float]]) -> list[str]:
        """What is new and wrong: terms whose gradient vanishes, and terms that dominate the task."""
        found: dict[tuple[str, str], str] = {}
        for name, figures in health.items():
            term, ratio = name.removeprefix("loss_"), figures["ratio"]
            if name != TASK and ratio < VANISHING:
                found[term, "vanishing"] = (
                    f"{term} vanishes: its gradient on the features is {ratio:.1e} of the task's. A larger weight "
                    "helps, or 0, which spends no time on it"
                )
            elif name != TASK and ratio > DOMINATING:
                found[term, "dominating"] = (
                    f"{term} dominates the task: its gradient on the features is {ratio:.1f} times the task's. A "
                    "smaller weight or --distill-warmup-iters helps"
                )
        fresh = [text for key, text in found.items() if key not in self._current]
        self._current = set(found)
        return fresh
