"""How training ends before its time: numbers that are not finite, signals."""

from collections.abc import Callable

import torch

from engine.finite import FiniteGuard
from engine.run import Run
from engine.saving import Saver, write_bad_batches
from engine.state import Training
from utils.logger import RunLogger
from utils.signals import Interrupted, Interrupts


def stop_if_not_finite(
    training: Training,
    guard: FiniteGuard,
    saver: Saver,
    run: Run,
    image_path: Callable[[int], str] | None,
    parameters_too: bool,
) -> None:
    """Ends the run, on all processes alike, after a bad step of any of them: saves what was good before it.

    Args:
        training: what trains.
        guard: knows of bad steps.
        saver: saves the good state.
        run: names the files.
        image_path: position in the training stream -> file.
        parameters_too: look at the parameters as well, which finite gradients can still make infinite.

    Raises:
        FloatingPointError: there was one; with iteration and term, and what was saved.
    """
    finding = guard.finding()
    if finding is not None:
        guard.rewind(finding[0])
    good = finding is None and not parameters_too or _parameters_are_finite(training)
    if finding is None and good:
        return
    what = f"the parameters are not finite after iteration {training.iteration}" if finding is None else finding[1]
    kept = "No state is saved from there on"
    if good:
        kept = f"The state before it, of iteration {training.iteration}, is saved as {run.last_state}"
        try:
            saver.save(final=True)
        except OSError as error:
            kept = f"The state before it could not be saved: {error}"
    raise FloatingPointError(
        f"{what}. {kept}. {write_bad_batches(run, guard.positions, image_path)} --resume auto goes on with the same "
        "settings and meets the same images; to change settings, start a new run from the checkpoint with --pretrained "
        "(or --student-pretrained). A lower --lr, --warmup-iters, --clip-grad or --amp off may help."
    )


def _parameters_are_finite(training: Training) -> bool:
    norms = torch._foreach_norm([parameter.detach() for parameter in training.task.parameters()])
    return bool(torch.stack(norms).isfinite().all())


def end_interrupted(training: Training, interrupts: Interrupts, run: Run, logger: RunLogger) -> None:
    """Raises `Interrupted` with what continues the run.

    Args:
        training: whose state has been saved.
        interrupts: names the signal.
        run: names the state's file.
        logger: hears of it.
    """
    logger.warning(f"{interrupts.name or 'a signal to another process'}: ending after iteration {training.iteration}")
    raise Interrupted(
        f"the run ended after iteration {training.iteration}, whose state is saved as {run.last_state}. The same "
        "command with --resume auto (and without --overwrite) goes on from there."
    )
