"""Optimisers and the learning-rate schedule."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

POLY_POWER = 0.9
# Options of torch's optimisers that change how a step is computed and not what.
IMPLEMENTATION = ("fused", "foreach")


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
        if momentum:  # torch's fused kernel leaves them uninitialised where it is told to leave the first step out
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


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict`, whatever implementation and memory format the state was saved from.

    Args:
        optimizer: keeps the implementation it was built with.
        state: of an optimiser of the same kind and parameters, fused or not, its parameters channels_last or not.
    """
    groups = [
        saved | {name: own[name] for name in IMPLEMENTATION if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False)  # torch compares the counts
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused kernels go through memory and not through indices: equal strides are on us.
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _fused(parameters: list[nn.Parameter]) -> bool | None:
    """True where one kernel can step all parameters; None leaves the choice to torch, which takes them list by list."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters) or None


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
