"""What a run writes beside its log: state and checkpoints, as `--on-save-error` says, and the batches of a bad end."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from engine.run.directory import BAD_BATCHES, Run
from engine.run.rank_checks import on_main_process
from engine.run.state import TrainState
from utils.checkpoint import save_atomic
from utils.distributed import all_gather_object, is_main_process
from utils.files import write_text
from utils.logger import RunLogger


class Checkpointer:
    """Writes the state and the checkpoints; what fails on the main process is known to all.

    The order makes the files agree whenever the run is killed: the state first, then the last checkpoint and the best
    one. A run that continues writes the checkpoints of its state again, and the best one if it is of that iteration.

    Attributes:
        saved_iteration: of the state on disk; None where this run has written none.

    Args:
        training: what is saved.
        arguments: the run's arguments as built-in types, for the state.
        device: where the run trains.
        run: names the files.
        logger: hears of failures.
        on_error: "stop" to raise where a write fails, "continue" to warn and go on with the last good state on disk.
    """

    def __init__(
        self,
        training: TrainState,
        arguments: dict[str, Any],
        device: torch.device,
        run: Run,
        logger: RunLogger,
        on_error: str = "stop",
    ) -> None:
        self._training, self._arguments, self._device = training, arguments, device
        self._run, self._logger, self._on_error = run, logger, on_error
        self._written_best = replace(training.best)
        self._state_written = False
        self.saved_iteration: int | None = training.iteration if run.continues_in_place else None

    def save(self, *, final: bool = False) -> None:
        """Writes everything. All processes together.

        Args:
            final: nothing follows that could try again, so a failure is an error whatever `on_error` says.

        Raises:
            OSError: on all processes, where a write failed and is not to be passed over.
        """
        self._logger.flush()  # no figure before the state is missing after a resume
        state = self._training.state(self._arguments, self._device)

        def write() -> None:
            save_atomic(state, self._run.last_state, keep_previous=True)
            self._state_written = True
            self._write_checkpoints()

        if self._guarded(write, final):
            self.saved_iteration = self._training.iteration

    def complete(self) -> None:
        """Writes the checkpoints that belong to the state which was loaded, in case the run was killed before."""
        self._guarded(self._write_checkpoints, final=False)

    def _best_is_now(self) -> bool:
        best = self._training.best
        return best.iteration == self._training.iteration > 0

    def _write_checkpoints(self) -> None:
        weights = self._training.evaluated_network.state_dict()
        save_atomic(weights, self._run.checkpoint)
        if self._best_is_now():
            save_atomic(weights, self._run.best_checkpoint)

    def _guarded(self, write: Callable[[], None], final: bool) -> bool:
        """Whether it was written."""
        self._state_written = False
        try:
            on_main_process(write)
        except OSError as error:
            if final or self._on_error == "stop":
                raise
            failure = error
        else:
            self._written_best = replace(self._training.best)
            return True
        # The best network of a validation whose files failed is gone at the next step: a later one may take its place.
        self._training.best = replace(self._written_best)
        missing = "only the state was" if self._state_written else "nothing was"  # the main process's logger says it
        self._logger.warning(
            f"{missing} saved at iteration {self._training.iteration}: {failure}. The last good state stays; the "
            "next save tries again (--on-save-error continue)"
        )
        return False


def write_bad_batches(run: Run, positions: list[tuple[int, list[int]]], image_path: Callable[[int], str] | None) -> str:
    """Writes which images each process has read since the last log. All processes together.

    Args:
        run: names the folder.
        positions: iteration and positions of its samples, of this process.
        image_path: position -> file; without it the positions are written.

    Returns:
        A sentence that says where they are.
    """
    name = image_path or (lambda position: f"position {position}")
    own = [(iteration, [str(name(position)) for position in samples]) for iteration, samples in positions]
    everyone = all_gather_object(own)
    path = run.folder / BAD_BATCHES
    if is_main_process():
        lines = [
            f"{iteration}\t{rank}\t{file}\n"
            for rank, rows in enumerate(everyone)
            for iteration, files in rows
            for file in files
        ]
        try:
            write_text(path, "".join(["iteration\tprocess\timage\n", *lines]))
        except OSError as error:
            return f"The images since the last log could not be written: {error}."
    return f"{path} names the images since the last log."
