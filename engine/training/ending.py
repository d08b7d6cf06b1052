"""How training ends before its time: numbers that are not finite, signals."""

from collections.abc import Callable

from engine.run.checkpointer import Checkpointer, write_bad_batches
from engine.run.directory import Run
from engine.run.state import TrainState
from engine.training.nonfinite import NonFiniteCheck
from utils.logger import RunLogger
from utils.signals import Interrupted, SignalHandler


def raise_if_not_finite(
    state: TrainState,
    nonfinite: NonFiniteCheck,
    checkpointer: Checkpointer,
    run: Run,
    image_path: Callable[[int], str] | None,
    parameters_too: bool,
) -> None:
    """Ends the run, on all processes alike, after a bad step of any of them.

    Args:
        state: what trains.
        nonfinite: knows of bad steps.
        checkpointer: knows the last good state.
        run: names the files.
        image_path: position in the training stream -> file.
        parameters_too: look at the parameters as well, which finite gradients can still make infinite.

    Raises:
        FloatingPointError: there was one; with iteration and term, and the state to go on from.
    """
    what = nonfinite.first_bad()
    if what is None and parameters_too and not nonfinite.parameters_are_finite():
        what = f"the parameters are not finite after iteration {state.iteration}"
    if what is None:
        return
    saved = checkpointer.saved_iteration
    kept = "No state was saved before it"
    if saved is not None:
        kept = f"The last state before it, of iteration {saved}, is {run.last_state}"
    raise FloatingPointError(
        f"{what}. {kept}. {write_bad_batches(run, nonfinite.positions, image_path)} --resume auto goes on with the "
        "same settings and meets the same images; to change settings, start a new run from the checkpoint with "
        "--pretrained (or --student-pretrained). A lower --lr, --warmup-iters, --clip-grad or --amp off may help."
    )


def end_interrupted(training: TrainState, interrupts: SignalHandler, run: Run, logger: RunLogger) -> None:
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
