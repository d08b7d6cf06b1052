"""The only training loop."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from dataset.loading.transforms import normalize
from engine.config.schema import TrainConfig
from engine.run.checkpointer import Checkpointer
from engine.run.directory import Run
from engine.run.state import Best, TrainState
from engine.training.budget import TimeBudget
from engine.training.ddp import distribute
from engine.training.ending import end_interrupted, raise_if_not_finite
from engine.training.health import measure
from engine.training.monitor import log_progress, progress_bar
from engine.training.nonfinite import NonFiniteCheck, step_masked
from engine.training.optim import poly_lr, set_lr
from engine.training.profile import StepProfiler
from engine.training.stopping import RankFlags, ValidationBrokenOff
from utils.amp import autocast
from utils.distributed import is_distributed
from utils.flags import record
from utils.logger import RunLogger
from utils.meters import RateMeter
from utils.metrics import SegMetrics
from utils.signals import SignalHandler
from utils.types import Batch, Step


def train(
    training: TrainState,
    loader: Iterable[Batch],
    *,
    config: TrainConfig,
    device: torch.device,
    run: Run,
    logger: RunLogger,
    validate: Callable[[nn.Module, int], SegMetrics] | None = None,
    profiler: StepProfiler | None = None,
    interrupts: SignalHandler | None = None,
    image_path: Callable[[int], str] | None = None,
) -> Best:
    """Trains until `max_iterations` or `max_seconds` have passed, logging, validating and saving on the way.

    Args:
        training: task, optimiser and what else moves; continues at its iteration.
        loader: micro-batches of this process from that iteration on; `accumulation_steps` of them make a step.
        config: of the run; it is stored with the state.
        device: where the task is.
        run: where checkpoints and the state go.
        logger: writes on the main process only.
        validate: (network, iteration) -> metrics of the whole validation split; None to skip validation.
        profiler: traces some steps.
        interrupts: the signals that end training early.
        image_path: position in the training stream -> file, to name the images of a bad end.

    Returns:
        The best validation.

    Raises:
        FloatingPointError: a loss or gradient is not finite; names it and the iteration. Nothing is saved then.
        Interrupted: a signal came; the state after the last step is saved.
        OSError: the state could not be saved.
    """
    optim, intervals = config.optim, config.run
    interrupts = interrupts or SignalHandler()
    agreement = RankFlags(device, lambda: interrupts.pending)
    saver = Checkpointer(training, record(config), device, run, logger, config.run.on_save_error)
    budget = TimeBudget(optim.max_seconds, training.seconds)
    ended = training.iteration >= optim.max_iterations or budget.spent
    training.task.train()
    if run.continues_in_place:
        saver.complete()
    elif run.state is not None or ended:  # begun elsewhere: this folder gets its state before anything else
        saver.save(final=ended)
    if training.validation_due:
        training.validation_due = False
        if validate is not None:
            _validate(training, validate, logger)
            saver.save(final=ended or training.validation_due)
    if training.validation_due:
        end_interrupted(training, interrupts, run, logger)
    model = distribute(training.task, device)
    nonfinite = NonFiniteCheck(training, device, agreement)
    batches = iter(loader)
    rates = RateMeter()
    bar = progress_bar(training.iteration, optim.max_iterations if optim.max_seconds is None else None)
    while not ended:
        lr = poly_lr(optim.lr, training.iteration, optim.max_iterations, optim.warmup_iters, budget.progress)
        set_lr(training.optimizer, lr)
        take_step(model, training, batches, config, device, rates.data_ready, nonfinite)
        if profiler is not None:
            profiler.step_done()
        rates.step_done(optim.batch_size)
        if not budget.running and device.type == "cuda":
            torch.cuda.synchronize(device)  # the clock starts when nothing is queued
        budget.step_done()
        bar.update()

        done = training.iteration
        ended = done == optim.max_iterations or budget.spent
        stop = agreement.stop and not ended
        log_now, validate_now, save_now = (
            ended or done % interval == 0
            for interval in (intervals.log_iter, intervals.val_per_iters, intervals.save_per_iters)
        )
        validate_now = validate_now and validate is not None
        if log_now or validate_now or save_now or stop:  # the one look at the device
            training.seconds = budget.seconds
            parameters_too = validate_now or save_now or stop
            raise_if_not_finite(training, nonfinite, saver, run, image_path, parameters_too)
        if log_now:
            log_progress(training, rates, lr, optim.max_iterations, optim.max_seconds, device, logger, bar)
            nonfinite.positions.clear()
        if not (validate_now or save_now or stop):
            continue
        with budget.paused():
            if validate_now and stop:
                training.validation_due = True
            improved = validate_now and not stop and _validate(training, validate, logger)
            stop = stop or training.validation_due
            if save_now or improved or stop:  # a best checkpoint never lies there without a state to go on from
                saver.save(final=ended or stop)
            if stop:
                bar.close()
                end_interrupted(training, interrupts, run, logger)
            rates.skip()
    bar.close()
    return training.best


def take_step(
    model: nn.Module,
    training: TrainState,
    batches: Iterator[Batch],
    config: TrainConfig,
    device: torch.device,
    data_ready: Callable[[], None],
    nonfinite: NonFiniteCheck,
) -> None:
    """One iteration at the learning rate that is set: takes its micro-batches, calls `data_ready`, trains on them."""
    with record_function("data"):
        taken = [next(batches) for _ in range(config.optim.accumulation_steps)]
        micro_batches = [_to_device(batch, device) for batch in taken]
    data_ready()
    nonfinite.note_samples([batch.positions for batch in taken])
    training.task.keep_features = config.run.loss_health and (training.iteration + 1) % config.run.log_iter == 0
    _step(model, training, micro_batches, config, device, nonfinite)
    training.iteration += 1


def _to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    images = normalize(batch.images.to(device, non_blocking=True), batch.valid_size.to(device, non_blocking=True))
    return images, batch.target.to(device, non_blocking=True).long()


def _step(
    model: nn.Module,
    training: TrainState,
    micro_batches: list[tuple[Tensor, Tensor]],
    config: TrainConfig,
    device: torch.device,
    nonfinite: NonFiniteCheck,
) -> None:
    """Forward and backward of every micro-batch, then one step of each optimiser, masked from the first bad one on."""
    count = len(micro_batches)
    all_targets = torch.cat([target for _, target in micro_batches]) if count > 1 else None
    terms = []
    for index, (images, target) in enumerate(micro_batches):
        step = Step(training.iteration, index, count, all_targets)
        last = index == count - 1
        with nullcontext() if last or not is_distributed() else model.no_sync():
            with autocast(device, config.machine.amp):
                losses = model(images, target, step)
            if last and training.task.keep_features:
                training.health = measure(losses, training.task.features, training.scaler.get_scale())
            with record_function("backward"):
                training.scaler.scale(sum(losses.values()) / count).backward()
        terms.append({name: loss.detach() for name, loss in losses.items()})
    optimizers = [training.optimizer]
    if training.discriminator_optimizer is not None:
        optimizers.append(training.discriminator_optimizer)
    with record_function("optimizer"):
        nonfinite.update(terms)
        _update(training, optimizers, config.optim.clip_grad, nonfinite.masked)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if training.ema is not None:
            training.ema.update_parameters(training.task.network, nonfinite.masked)


def _update(training: TrainState, optimizers: list[torch.optim.Optimizer], clip_grad: float, masked: Tensor) -> None:
    """Clips the gradients and takes a step of each optimiser; the scaler or the mask leaves bad ones out."""
    if clip_grad > 0:
        training.scaler.unscale_(training.optimizer)
        # not the separate parameters: a discriminator's gradients say nothing about the size of the student's step
        clipped = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(clipped, clip_grad)
    for optimizer in optimizers:
        if training.scaler.is_enabled():
            training.scaler.step(optimizer)
        else:
            step_masked(optimizer, masked)
    training.scaler.update()


def _validate(training: TrainState, validate: Callable[[nn.Module, int], SegMetrics], logger: RunLogger) -> bool:
    """Evaluates and logs; returns whether it is the best so far. A signal leaves it due. All processes alike."""
    try:
        metrics = validate(training.evaluated_network, training.iteration)
    except ValidationBrokenOff:
        training.validation_due = True
        return False
    figures = {name: getattr(metrics, name) for name in ("miou", "miou_present", "macc", "pixel_accuracy")}
    improved = metrics.miou > training.best.miou
    if improved:
        training.best = Best(metrics.miou, training.iteration)
    logger.info(
        f"validation at {training.iteration}: {metrics.describe_miou()}  mAcc {metrics.macc:.2%}  "
        f"pixel accuracy {metrics.pixel_accuracy:.2%}  "
        f"best mIoU {training.best.miou:.2%} at {training.best.iteration}"
    )
    classes = dict(zip(training.data.get("classes", ()), metrics.iou.tolist(), strict=False))
    if classes:
        logger.info("IoU %: " + ", ".join(f"{name} {100 * iou:.1f}" for name, iou in classes.items()))
    record_of = {"iteration": training.iteration, "train_seconds": training.seconds}
    logger.metrics(record_of | {"validation": figures | {"class_iou": classes}})
    logger.scalars({f"val/{name}": value for name, value in figures.items()}, training.iteration)
    logger.scalars({f"val_iou/{name}": value for name, value in classes.items()}, training.iteration)
    return improved
