"""The only training loop."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.transforms import normalize
from engine.amp import autocast
from engine.budget import TimeBudget
from engine.health import bank_filling, measure
from engine.optim import poly_lr, set_lr
from engine.parallel import average_batch_norm_statistics, distribute
from engine.run import Run
from engine.state import Best, Training
from utils.checkpoint import save_atomic
from utils.distributed import is_distributed, is_main_process
from utils.logger import RunLogger
from utils.meters import RateMeter, format_duration
from utils.metrics import SegMetrics
from utils.types import Batch, Step


@dataclass(frozen=True)
class Settings:
    """What the loop needs to know; see the flags of the same names."""

    max_iterations: int
    max_seconds: float | None
    batch_size: int
    accumulation_steps: int
    lr: float
    warmup_iters: int
    clip_grad: float
    amp: str
    log_iter: int
    save_per_iters: int
    val_per_iters: int
    loss_health: bool = False


def train(
    training: Training,
    loader: Iterable[Batch],
    *,
    settings: Settings,
    arguments: dict[str, Any],
    device: torch.device,
    run: Run,
    logger: RunLogger,
    validate: Callable[[nn.Module, int], SegMetrics] | None = None,
) -> Best:
    """Trains until `max_iterations` or `max_seconds` have passed, logging, validating and saving on the way.

    Args:
        training: task, optimiser and what else moves; continues at its iteration.
        loader: micro-batches of this process from that iteration on; `accumulation_steps` of them make a step.
        settings, arguments: the latter are stored with the state.
        device: where the task is.
        run: where checkpoints and the state go.
        logger: writes on the main process only.
        validate: (network, iteration) -> metrics of the whole validation split; None to skip validation.

    Returns:
        The best validation.

    Raises:
        FloatingPointError: a loss is not finite; names the term and the iteration. Nothing is saved from then on.
    """
    budget = TimeBudget(settings.max_seconds, training.seconds)
    ended = training.iteration >= settings.max_iterations or budget.spent
    if ended and not run.continues_in_place:
        _save(training, arguments, device, run)  # finished elsewhere: this folder gets its checkpoint and state
    model = distribute(training.task, device)
    training.task.train()
    batches = iter(loader)
    rates = RateMeter()
    bar = tqdm(
        total=settings.max_iterations if settings.max_seconds is None else None,
        initial=training.iteration,
        unit="it",
        disable=_no_bar(),
        dynamic_ncols=True,
    )
    while not ended:
        lr = poly_lr(settings.lr, training.iteration, settings.max_iterations, settings.warmup_iters, budget.progress)
        set_lr(training.optimizer, lr)
        micro_batches = [_to_device(next(batches), device) for _ in range(settings.accumulation_steps)]
        rates.data_ready()
        training.task.keep_features = settings.loss_health and (training.iteration + 1) % settings.log_iter == 0
        _step(model, training, micro_batches, settings, device)
        training.iteration += 1
        rates.step_done(settings.batch_size)
        if not budget.running and device.type == "cuda":
            torch.cuda.synchronize(device)  # the clock starts when nothing is queued
        budget.step_done()
        bar.update()

        done = training.iteration
        ended = done == settings.max_iterations or budget.spent
        log_now, validate_now, save_now = (
            ended or done % interval == 0
            for interval in (settings.log_iter, settings.val_per_iters, settings.save_per_iters)
        )
        if log_now or validate_now or save_now or (device.type == "cpu" and not is_distributed()):
            _stop_if_not_finite(training, parameters_too=validate_now or save_now)
        if log_now:
            training.seconds = budget.seconds
            _log(training, rates, lr, settings, device, logger, bar)
        if not ((validate_now and validate is not None) or save_now):
            continue
        with budget.paused():
            training.seconds = budget.seconds
            average_batch_norm_statistics([training.task, training.ema])
            improved = validate_now and validate is not None and _validate(training, validate, run, logger)
            if save_now or improved:  # a best checkpoint never lies there without a state to go on from
                logger.flush()  # no figure before the state is missing after a resume
                _save(training, arguments, device, run)
            rates.skip()
    bar.close()
    return training.best


def _to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    images = normalize(batch.images.to(device, non_blocking=True), batch.valid_size.to(device, non_blocking=True))
    return images, batch.target.to(device, non_blocking=True).long()


def _step(
    model: nn.Module,
    training: Training,
    micro_batches: list[tuple[Tensor, Tensor]],
    settings: Settings,
    device: torch.device,
) -> None:
    """Forward and backward of every micro-batch, then one step of each optimiser."""
    count = len(micro_batches)
    all_targets = torch.cat([target for _, target in micro_batches]) if count > 1 else None
    for index, (images, target) in enumerate(micro_batches):
        step = Step(training.iteration, index, count, all_targets)
        last = index == count - 1
        with nullcontext() if last or not is_distributed() else model.no_sync():
            with autocast(device, settings.amp):
                losses = model(images, target, step)
            if last and training.task.keep_features:
                training.health = measure(losses, training.task.features, training.scaler.get_scale())
            training.scaler.scale(sum(losses.values()) / count).backward()
        training.meter.update(losses, training.iteration + 1)
    if settings.clip_grad > 0:
        training.scaler.unscale_(training.optimizer)
        # not the separate parameters: a discriminator's gradients say nothing about the size of the student's step
        clipped = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(clipped, settings.clip_grad)
    optimizers = [training.optimizer]
    if training.separate_optimizer is not None:
        optimizers.append(training.separate_optimizer)
    for optimizer in optimizers:
        training.scaler.step(optimizer)
    training.scaler.update()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    if training.ema is not None:
        training.ema.update_parameters(training.task.network)


def _stop_if_not_finite(training: Training, parameters_too: bool) -> None:
    """Raises FloatingPointError, on all processes alike, for a loss of any of them or for the parameters."""
    bad = training.meter.first_bad(across_processes=True)
    what = None if bad is None else f"{bad[1]} is not finite at iteration {bad[0]}"
    if what is None and parameters_too:  # a finite loss can have a gradient that is not
        norms = torch.stack(torch._foreach_norm([p.detach() for p in training.task.parameters()]))
        if not bool(norms.isfinite().all()):
            what = f"the parameters are not finite after iteration {training.iteration}"
    if what is not None:
        raise FloatingPointError(
            f"{what}. No state is saved from there on. A lower --lr, --warmup-iters, --clip-grad or --amp off may help."
        )


def _log(
    training: Training,
    rates: RateMeter,
    lr: float,
    settings: Settings,
    device: torch.device,
    logger: RunLogger,
    bar: tqdm,
) -> None:
    losses = training.meter.read(across_processes=True)
    total = sum(losses.values())
    speed = rates.read()
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_rss_mib()
    of_all, remaining = f"/{settings.max_iterations}", rates.eta(settings.max_iterations - training.iteration)
    if settings.max_seconds is not None:
        of_all = f" ({training.seconds:.0f} of {settings.max_seconds:g} s)"
        remaining = format_duration(settings.max_seconds - training.seconds)
    terms = "  ".join(f"{name.removeprefix('loss_')} {value:.4g}" for name, value in losses.items())
    logger.info(
        f"iteration {training.iteration}{of_all}  loss {total:.4f}  {terms}  lr {lr:.3g}  "
        f"{speed.get('images_per_second', 0):.1f} images/s  eta {remaining}"
    )
    record = {"iteration": training.iteration, "lr": lr, "loss": total, **losses} | speed
    record |= {"memory_mib": memory, "train_seconds": training.seconds} | _health(training, logger)
    logger.metrics(record)
    logger.scalars({"train/loss": total} | {f"train/{k}": v for k, v in losses.items()}, training.iteration)
    logger.scalars({"lr": lr} | {f"speed/{k}": v for k, v in speed.items()}, training.iteration)
    best = f"{training.best.miou:.2%}" if training.best.iteration else "-"
    bar.set_postfix_str(f"best mIoU {best}  loss {total:.3f}  {terms}")


def _health(training: Training, logger: RunLogger) -> dict[str, Any]:
    """What was measured of the losses' health since the last log, for the record; says what is wrong."""
    if not training.health:
        return {}
    health, training.health = training.health, {}
    for text in training.watch.warnings(health):
        logger.info(f"WARNING: {text}")
    banks = bank_filling(training.task)
    figures = {f"health/{name}/{kind}": value for name, row in health.items() for kind, value in row.items()}
    logger.scalars(figures | {f"banks/{name}": share for name, share in banks.items()}, training.iteration)
    return {"health": health, "banks": banks}


def _validate(
    training: Training, validate: Callable[[nn.Module, int], SegMetrics], run: Run, logger: RunLogger
) -> bool:
    """Evaluates, logs, and keeps the network where it is the best so far; returns whether it is, on all processes."""
    metrics = validate(training.evaluated_network, training.iteration)
    figures = {name: getattr(metrics, name) for name in ("miou", "miou_present", "macc", "pixel_accuracy")}
    improved = metrics.miou > training.best.miou
    if improved:
        training.best = Best(metrics.miou, training.iteration)
        if is_main_process():
            save_atomic(training.evaluated_network.state_dict(), run.best_checkpoint)
    logger.info(
        f"validation at {training.iteration}: mIoU {metrics.miou:.2%} (over occurring classes "
        f"{metrics.miou_present:.2%})  mAcc {metrics.macc:.2%}  pixel accuracy {metrics.pixel_accuracy:.2%}  "
        f"best mIoU {training.best.miou:.2%} at {training.best.iteration}"
    )
    logger.metrics({"iteration": training.iteration, "train_seconds": training.seconds, "validation": figures})
    logger.scalars({f"val/{name}": value for name, value in figures.items()}, training.iteration)
    return improved


def _save(training: Training, arguments: dict[str, Any], device: torch.device, run: Run) -> None:
    state = training.state(arguments, device)
    if is_main_process():
        save_atomic(training.evaluated_network.state_dict(), run.checkpoint)
        save_atomic(state, run.last_state)


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _no_bar() -> bool | None:
    return None if is_main_process() else True  # None: only where stderr is a terminal
