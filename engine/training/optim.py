"""Optimisers, the learning-rate schedule, and averaged weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from engine.run.state import POLY_POWER


def poly_lr(base_lr: float, iteration: int, max_iterations: int, warmup_iters: int = 0, progress: float = 0.0) -> float:
    """Learning rate of a step: base · (1 − max(it/max, progress))^0.9, rising linearly over `warmup_iters` steps.

    Args:
        base_lr: rate at the start of the decay.
        iteration: number of steps done before this one, 0 at the first.
        max_iterations: number of steps of the whole run.
        warmup_iters: number of steps over which the rate rises from base/warmup_iters.
        progress: the part of the run that has passed by another measure, from 0 to 1; the larger part counts.
    """
    rate = base_lr * (1 - max(iteration / max_iterations, progress)) ** POLY_POWER
    if iteration < warmup_iters:
        rate *= (iteration + 1) / warmup_iters
    return rate


def build_optimizer(
    task: nn.Module,
    backbone: Iterable[nn.Parameter],
    *,
    kind: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    head_lr_mult: float = 1.0,
    separate: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over all trainable parameters of `task` but those that are separate.

    Args:
        task: holds everything that trains.
        backbone: the parameters that `head_lr_mult` leaves alone.
        kind: "sgd" or "adamw".
        head_lr_mult: the rate of all other parameters is multiplied by this.
        separate: parameters that `build_discriminator_optimizer` takes.
    """
    backbone_ids = {id(parameter) for parameter in backbone}
    separate_ids = {id(parameter) for parameter in separate}
    parameters = [p for p in task.parameters() if p.requires_grad and id(p) not in separate_ids]
    if head_lr_mult == 1.0:
        groups = [{"params": parameters, "lr_mult": 1.0}]
    else:
        groups = [
            {"params": [p for p in parameters if id(p) in backbone_ids], "lr_mult": 1.0},
            {"params": [p for p in parameters if id(p) not in backbone_ids], "lr_mult": head_lr_mult},
        ]
    fused = _fused(parameters)
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
        if momentum:  # torch's fused kernel leaves them uninitialised where the first step is masked
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)
    raise ValueError(f"unknown optimiser {kind!r}: expected sgd or adamw.")


def build_discriminator_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
    """Adam with the published settings of the adversarial methods' discriminator; its rate never changes.

    Args:
        parameters: what the task trains by an optimiser of its own; without any there is no optimiser.
    """
    parameters = list(parameters)
    if not parameters:
        return None
    return torch.optim.Adam(parameters, lr=4e-4, betas=(0.9, 0.99), fused=_fused(parameters))


def _fused(parameters: list[nn.Parameter]) -> bool | None:
    """True where one kernel can step all parameters; None leaves the choice to torch, which takes them list by list."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters) or None


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]


class AveragedWeights(AveragedModel):
    """Exponential moving average of a network's parameters and buffers.

    torch's own update sends its counter to the device at every step, which waits for the device, and cannot be masked.

    Args:
        network: is copied.
        decay: of the average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, masked: Tensor | None = None) -> None:
        """Moves the averages towards the network's values; the first update copies them.

        Args:
            model: the network.
            masked: 0-dimensional bool on its device; where it is True nothing moves.
        """
        averages = [*self.module.parameters(), *self.module.buffers()]
        parameters, buffers = list(model.parameters()), list(model.buffers())
        if masked is not None:  # a masked step's statistics may not be finite, and 0 times those is NaN
            buffers = [torch.where(masked, own, new) for own, new in zip(self.module.buffers(), buffers, strict=True)]
        values = [*parameters, *buffers]
        pairs = list(zip(averages, values, strict=True))
        if int(self.n_averaged) == 0:  # it stays on the CPU
            torch._foreach_copy_(averages, values)
        else:
            share = 1 - self.decay if masked is None else (1 - self.decay) * ~masked
            moving = [(average, value) for average, value in pairs if average.is_floating_point()]
            for dtype in dict.fromkeys(average.dtype for average, _ in moving):
                own = [average for average, _ in moving if average.dtype == dtype]
                differences = torch._foreach_sub([value for _, value in moving if value.dtype == dtype], own)
                torch._foreach_mul_(differences, share)
                torch._foreach_add_(own, differences)
            for average, value in pairs:
                if not average.is_floating_point():  # counters of batch norms, as torch averages them
                    moved = (average * self.decay + value * (1 - self.decay)).to(average.dtype)
                    average.copy_(moved if masked is None else torch.where(masked, average, moved))
        self.n_averaged += 1
