"""Weights that fit any crop and data set: the share of each term's gradient that it has at the recipe's sizes.

The published weights were chosen for crops of 512x1024. A term's gradient depends on the size of the maps, the number
of images, channels and classes: at crops of 96x128 the channel term alone has 33 times the task's.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from losses.base import warmup_factor
from losses.gradients import TASK, measure
from utils.types import Step

ITERATIONS = 20
"""The first of a run, whose gradients are measured; a factor is the mean's of those that have passed."""
FP16_SCALE = 2.0**16  # of the losses, so that gradients of half precision do not vanish

# Method -> term -> norm of its gradient on the features / the task's at weight 1, geometric mean of a run's first
# ITERATIONS; benchmarks/balance.json says on what, `python -m benchmarks.balance` measures it.
TARGETS: dict[str, dict[str, float]] = {
    "cirkdv2": {
        "minibatch_pixel": 1.57,
        "memory_pixel": 1.14,
        "memory_region": 1.11,
        "kd": 0.837,
        "fitnet": 0.105,
        "minibatch_channel": 1.62,
        "memory_channel": 1.42,
        "channel_kd": 0.000806,
    },
    "cirkd": {"minibatch_pixel": 1.53, "memory_pixel": 0.902, "memory_region": 0.865},
    "kd": {"kd": 0.883},
    "at": {"at": 6.96e-05},
    "fitnet": {"fitnet": 0.127},
    "skd": {"skd": 0.147},
    "ifvd": {"ifv": 0.101},
    "cwd": {"cwd_fea": 0.0552, "cwd_logit": 1.4},
    "adversarial": {"adv": 14.2},
    "dsd": {"psd": 0.000216, "csd": 5.58e-09},
    "dist": {"dist": 1.08},
    "mgd": {"mgd": 4.05e04},
    "dkd": {"dkd": 2.17},
    "af_dcd": {"afdcd_feature": 3.84e04, "afdcd_contrast": 274},
    "nfd": {"nfd": 0.235},
    "attnfd": {"attnfd": 1.29},
}


def targets(configs: Mapping[str, Any]) -> dict[str, float]:
    """Term -> its target, in proportion to its weight.

    Args:
        configs: method -> its settings. A term of weight 0, or whose target was not measured, is absent.
    """
    found = {
        f"loss_{term}": ratio * getattr(config, f"{term}_weight")
        for method, config in configs.items()
        for term, ratio in TARGETS.get(method, {}).items()
    }
    return {term: target for term, target in found.items() if target > 0}


class Balance(nn.Module):
    """One factor for each term, fixed after the first iterations; part of the run's state.

    Measuring waits for the device; afterwards nothing does. All processes measure, and come to, the same.

    Args:
        targets: term -> the ratio of its gradient on the features to the task's that it is to have.
        distill_warmup_iters: of the run, in which weights rise; the targets are those after it.
    """

    def __init__(self, targets: Mapping[str, float], distill_warmup_iters: int = 0) -> None:
        super().__init__()
        self.targets, self.distill_warmup_iters = dict(targets), distill_warmup_iters
        self.register_buffer("log_ratios", torch.zeros(len(targets), dtype=torch.float64))  # sums
        self.register_buffer("counts", torch.zeros(len(targets), dtype=torch.int64))
        self.register_buffer("factors", torch.ones(len(targets)))

    def forward(self, losses: Mapping[str, Tensor], features: Tensor, step: Step) -> dict[str, Tensor]:
        """The losses, each times its factor.

        Args:
            losses: name -> weighted loss; the task's among them.
            features: (N, C, h, w), part of the losses' graphs.
            step: where the micro-batch stands; the first of a step is measured.
        """
        if self.training and step.iteration < ITERATIONS and step.micro_batch == 0 and torch.is_grad_enabled():
            self._measure(losses, features, step)
        factors = dict(zip(self.targets, self.factors, strict=True))
        return {name: loss * factors[name] if name in factors else loss for name, loss in losses.items()}

    def _measure(self, losses: Mapping[str, Tensor], features: Tensor, step: Step) -> None:
        scale = FP16_SCALE if features.dtype == torch.float16 else 1.0
        found = measure({name: losses[name] for name in (TASK, *self.targets) if name in losses}, features, scale)
        warmup = warmup_factor(step, self.distill_warmup_iters)
        for index, (name, target) in enumerate(self.targets.items()):
            ratio = found[name]["ratio"] / warmup if name in found else 0.0
            if not (math.isfinite(ratio) and ratio > 0):  # a bank without rows, or a step that is not finite
                continue
            self.log_ratios[index] += math.log(ratio)
            self.counts[index] += 1
            self.factors[index] = target / math.exp(self.log_ratios[index] / self.counts[index])

    def describe(self) -> str:
        """The factors as text; of a term that could not be measured it is 1."""
        return ", ".join(f"{name.removeprefix('loss_')} {value:.3g}" for name, value in self.values().items())

    def values(self) -> dict[str, float]:
        """Term -> its factor."""
        return dict(zip(self.targets, self.factors.tolist(), strict=True))
