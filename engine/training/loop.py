"""The only training loop."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from engine.config.schema import RunConfig, TrainConfig
from engine.run.checkpointer import Checkpointer
from engine.run.directory import RunDirectory
from engine.run.state import Best, TrainState
from engine.training.ddp import distribute
from engine.training.monitor import TrainingMonitor
from engine.training.nonfinite import NonFiniteCheck
from engine.training.optim import poly_lr, set_lr
from engine.training.step import train_step
from engine.training.stopping import StopController, ValidationStopped
from utils.flags import record
from utils.logger import RunLogger
from utils.metrics import SegMetrics
from utils.types import Batch

# (network, iteration, stop) -> metrics of the whole validation split; raises ValidationStopped where a signal comes
Validate = Callable[[torch.nn.Module, int, StopController], SegMetrics]


class Due(NamedTuple):
    """What follows a step."""

    log: bool
    validate: bool
    save: bool
    stop: bool  # a signal came

    @classmethod
    def after(cls, iteration: int, intervals: RunConfig, *, finished: bool, stop: bool) -> "Due":
        steps = (intervals.log_iter, intervals.val_per_iters, intervals.save_per_iters)
        log, validate, save = (finished or iteration % interval == 0 for interval in steps)
        return cls(log, validate and not intervals.skip_val, save, stop and not finished)

    @property
    def pause(self) -> bool:
        """Whether it takes time that is no training."""
        return self.validate or self.save or self.stop


def train(
    state: TrainState,
    loader: Iterable[Batch],
    *,
    config: TrainConfig,
    device: torch.device,
    run: RunDirectory,
    logger: RunLogger,
    validate: Validate | None = None,
    image_path: Callable[[int], str] | None = None,
) -> Best:
    """Trains until `max_iterations` or `max_seconds` have passed, logging, validating and saving on the way.

    Args:
        state: task, optimiser and what else moves; training continues at its iteration.
        loader: micro-batches of this process from that iteration on; `accumulation_steps` of them make a step.
        config: of the run; it is stored with the state.
        device: where the task is.
        run: where checkpoints and the state go.
        logger: writes on the main process only.
        validate: evaluates the network; may be None with `skip_val`.
        image_path: position in the training stream -> file, to name the images of a step that was not finite.

    Returns:
        The best validation.

    Raises:
        FloatingPointError: a loss or gradient is not finite; names it and the iteration. Nothing is saved then.
        Interrupted: a signal came; the state after the last step is saved.
        OSError: the state could not be saved.
    """
    optim = config.optim
    checkpointer = Checkpointer(state, record(config), device, run, logger, config.run.on_save_error)
    with (
        StopController(optim.max_iterations, optim.max_seconds, device, state.seconds) as stop,
        TrainingMonitor(state, config, device, run, logger) as monitor,
    ):
        state.task.train()
        _finish_what_was_due(state, run, checkpointer, stop, monitor, validate)
        model = distribute(state.task, device)
        nonfinite = NonFiniteCheck(state, device, stop.exchange)
        batches = iter(loader)
        while not stop.finished(state):
            lr = poly_lr(optim.lr, state.iteration, optim.max_iterations, optim.warmup_iters, stop.progress)
            set_lr(state.optimizer, lr)
            health = train_step(model, state, batches, config, device, nonfinite, monitor.data_ready)
            monitor.step_done(health)
            stop.step_done()
            due = Due.after(state.iteration, config.run, finished=stop.finished(state), stop=stop.requested)
            if not any(due):
                continue
            state.seconds = stop.seconds
            nonfinite.raise_if_set(run, checkpointer.saved_iteration, image_path, look_at_weights=due.pause)
            if due.log:
                monitor.log()
                nonfinite.positions.clear()
            if not due.pause:
                continue
            with stop.paused():
                improved = due.validate and _run_validation(state, validate, stop, monitor)
                if due.save or due.stop or improved or state.validation_due:  # never a best checkpoint without a state
                    checkpointer.save(final=stop.ends(state))
                stop.raise_if_requested(state, run, logger)
            monitor.skip_time()
    return state.best


def _finish_what_was_due(
    state: TrainState,
    run: RunDirectory,
    checkpointer: Checkpointer,
    stop: StopController,
    monitor: TrainingMonitor,
    validate: Validate | None,
) -> None:
    """What the run that is continued did not come to: its checkpoints, a state in this folder, its validation."""
    if run.continues_in_place:
        checkpointer.complete()
    elif run.state is not None or stop.finished(state):
        checkpointer.save(final=stop.finished(state))
    if state.validation_due:
        state.validation_due = False
        if validate is not None:
            _run_validation(state, validate, stop, monitor)
            checkpointer.save(final=stop.ends(state))
        stop.raise_if_requested(state, run, monitor.logger)


def _run_validation(state: TrainState, validate: Validate, stop: StopController, monitor: TrainingMonitor) -> bool:
    """Evaluates and logs; whether it is the best so far. A signal leaves it due. All processes alike."""
    try:
        if stop.requested and not stop.finished(state):
            raise ValidationStopped
        metrics = validate(state.evaluated_network, state.iteration, stop)
    except ValidationStopped:
        state.validation_due = True
        return False
    improved = metrics.miou > state.best.miou
    if improved:
        state.best = Best(metrics.miou, state.iteration)
    monitor.log_validation(metrics)
    return improved
