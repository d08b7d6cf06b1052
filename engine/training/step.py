"""One optimiser step."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from dataset.loading.transforms import normalize
from engine.config.schema import TrainConfig
from engine.run.state import TrainState
from engine.training.nonfinite import NonFiniteCheck, step_masked
from losses.gradients import measure
from utils.amp import autocast
from utils.distributed import is_distributed
from utils.types import Batch, Step


def train_step(
    model: nn.Module,
    state: TrainState,
    batches: Iterator[Batch],
    config: TrainConfig,
    device: torch.device,
    nonfinite: NonFiniteCheck,
    data_ready: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """Takes the step's micro-batches and trains on them at the learning rate that is set.

    Args:
        model: the task, or DDP around it.
        state: what it changes; its iteration is one more afterwards.
        batches: of this process; `accumulation_steps` of them are taken.
        config: of the run.
        device: where the task is.
        nonfinite: sees the losses and gradients, books the losses, and masks the update from the first bad one on.
        data_ready: called when the micro-batches are there.

    Returns:
        The health of the terms (see `losses.gradients.measure`) with `loss_health` at a log interval, else nothing.
    """
    count = config.optim.accumulation_steps
    with record_function("data"):
        taken = [next(batches) for _ in range(count)]
        micro_batches = [_to_device(batch, device) for batch in taken]
    data_ready()
    nonfinite.note_samples([batch.positions for batch in taken])
    all_targets = torch.cat([target for _, target in micro_batches]) if count > 1 else None
    state.task.keep_features = config.run.loss_health and (state.iteration + 1) % config.run.log_iter == 0
    terms, health = [], {}
    for index, (images, target) in enumerate(micro_batches):
        last = index == count - 1
        with nullcontext() if last or not is_distributed() else model.no_sync():
            with autocast(device, config.machine.amp):
                losses = model(images, target, Step(state.iteration, index, count, all_targets))
            if last and state.task.keep_features:
                health = measure(losses, state.task.features, state.scaler.get_scale())
            with record_function("backward"):
                state.scaler.scale(sum(losses.values()) / count).backward()
        terms.append({name: loss.detach() for name, loss in losses.items()})
    with record_function("optimizer"):
        nonfinite.update(terms)
        _update(state, config.optim.clip_grad, nonfinite.masked)
    state.iteration += 1
    return health


def _to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    images = normalize(batch.images.to(device, non_blocking=True), batch.valid_size.to(device, non_blocking=True))
    return images, batch.target.to(device, non_blocking=True).long()


def _update(state: TrainState, clip_grad: float, masked: Tensor) -> None:
    """Clips the gradients, takes a step of each optimiser and averages; the scaler or the mask leaves bad ones out."""
    if clip_grad > 0:
        state.scaler.unscale_(state.optimizer)
        # not a discriminator's parameters: their gradients do not measure the student's step
        clipped = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(clipped, clip_grad)
    optimizers = [optimizer for optimizer in (state.optimizer, state.discriminator_optimizer) if optimizer is not None]
    for optimizer in optimizers:
        if state.scaler.is_enabled():
            state.scaler.step(optimizer)
        else:
            step_masked(optimizer, masked)
    state.scaler.update()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update_parameters(state.task.network, masked)
