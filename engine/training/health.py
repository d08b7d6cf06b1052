"""Whether each loss term teaches: its gradient on the shared features beside the task's, and how full the banks are."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from losses.modules.memory_bank import MemoryBank
from utils.distributed import all_reduce_sum

TASK = "loss_task"
# Shares of the task gradient's norm below which a term is as good as absent, and above which the task is.
VANISHING, DOMINATING = 1e-4, 10.0


def measure(losses: Mapping[str, Tensor], features: Tensor, scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Gradient of every term on the student's features, over the images of all processes.

    Reads values, so it waits for the device. The graph is kept for the backward pass that follows. Every process has
    to call it with the same terms.

    Args:
        losses: name -> weighted loss with its graph.
        features: (N, C, h, w), what the student's head hands to its classifier; part of the graphs.
        scale: factor while gradients are formed, so that those of half precision do not vanish.

    Returns:
        name -> {"gradient": norm, "cosine": to the task's gradient, "ratio": norm / the task's}; a term that does not
        depend on the features (the auxiliary head's) is absent.
    """
    gradients = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(loss * scale, features, retain_graph=True, allow_unused=True)
        if gradient is not None:
            gradients[name] = gradient.flatten().float() / scale
    if TASK not in gradients:
        return {}
    task = gradients[TASK]
    products = torch.stack([torch.stack([g.dot(g), g.dot(task)]) for g in gradients.values()]).double()
    squares, dots = all_reduce_sum(products).unbind(1)
    norms = squares.sqrt()
    task_norm = norms[list(gradients).index(TASK)]
    cosines = dots / (norms * task_norm).clamp_min(1e-300)
    ratios = norms / task_norm.clamp_min(1e-300)
    rows = torch.stack([norms, cosines, ratios], dim=1).tolist()
    return {
        name: {"gradient": gradient, "cosine": cosine, "ratio": ratio}
        for name, (gradient, cosine, ratio) in zip(gradients, rows, strict=True)
    }


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
