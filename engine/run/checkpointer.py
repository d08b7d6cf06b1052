"""State and checkpoints of a run, as `--on-save-error` asks for, and whether the disk has room for them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from engine.run.directory import RunDirectory
from engine.run.rank_checks import on_main_process
from engine.run.state import TrainState
from utils.checkpoint import save_atomic
from utils.logger import RunLogger

STATES = 3  # the last one, the one before it, and the one that is being written
CHECKPOINTS = 2  # last and best
MIB = 2**20


class Checkpointer:
    """Writes the state and the checkpoints; what fails on the main process is known to all.

    The order makes the files agree whenever the run is killed: the state first, then the last checkpoint and the best
    one. A run that continues writes the checkpoints of its state again, and the best one if it is of that iteration.

    Attributes:
        saved_iteration: of the state on disk; None where this run has written none.

    Args:
        state: what is saved.
        arguments: the run's arguments as built-in types, for the state.
        device: where the run trains.
        run: names the files.
        logger: gets failures.
        on_error: "stop" to raise where a write fails, "continue" to warn and go on with the last good state on disk.
    """

    def __init__(
        self,
        state: TrainState,
        arguments: dict[str, Any],
        device: torch.device,
        run: RunDirectory,
        logger: RunLogger,
        on_error: str = "stop",
    ) -> None:
        self._state, self._arguments, self._device = state, arguments, device
        self._run, self._logger, self._on_error = run, logger, on_error
        self._written_best = replace(state.best)
        self._state_written = False
        self.saved_iteration: int | None = state.iteration if run.continues_in_place else None

    def save(self, *, final: bool = False) -> None:
        """Writes everything. All processes together.

        Args:
            final: nothing follows that could try again, so a failure is an error whatever `on_error` is.

        Raises:
            OSError: on all processes, where a write failed and `on_error` is "stop".
        """
        self._logger.flush()  # no figure before the state is missing after a resume
        saved = self._state.state(self._arguments, self._device)

        def write() -> None:
            save_atomic(saved, self._run.last_state, keep_previous=True)
            self._state_written = True
            self._write_checkpoints()

        if self._guarded(write, final):
            self.saved_iteration = self._state.iteration

    def complete(self) -> None:
        """Writes the checkpoints that belong to the state which was loaded, in case the run was killed before."""
        self._guarded(self._write_checkpoints, final=False)

    def _best_is_now(self) -> bool:
        best = self._state.best
        return best.iteration == self._state.iteration > 0

    def _write_checkpoints(self) -> None:
        weights = self._state.evaluated_network.state_dict()
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
            self._written_best = replace(self._state.best)
            return True
        # The best network of a validation whose files failed is gone at the next step: a later one may take its place.
        self._state.best = replace(self._written_best)
        missing = "only the state was" if self._state_written else "nothing was"  # only the main process logs it
        self._logger.warning(
            f"{missing} saved at iteration {self._state.iteration}: {failure}. The last good state stays; the "
            "next save tries again (--on-save-error continue)"
        )
        return False


def disk_space(state: TrainState, run: RunDirectory, checkpoints: int = CHECKPOINTS) -> tuple[int, int]:
    """(needed, available): bytes that states and checkpoints take while one is written, and that they may take.

    Files that the run will replace count as available. The log is not counted.
    """
    needed = STATES * state_bytes(state) + checkpoints * tensor_bytes(state.evaluated_network.state_dict())
    own = sum(file.stat().st_size for file in run.saved_files if file.exists())
    existing = next(folder for folder in (run.folder, *run.folder.absolute().parents) if folder.is_dir())
    return needed, shutil.disk_usage(existing).free + own


def space_warning(state: TrainState, run: RunDirectory) -> str | None:
    """A warning where the disk may not hold the run's files: quotas, and what else is written, are not known."""
    needed, available = disk_space(state, run)
    if available >= needed:
        return None
    return (
        f"the run's states and checkpoints take up to {needed / MIB:,.0f} MiB, and {run.folder} has room for "
        f"{available / MIB:,.0f} MiB: a save may fail."
    )


def state_bytes(state: TrainState) -> int:
    """Bytes of the tensors of a state after the first step."""
    optimizers = [state.optimizer, state.discriminator_optimizer]
    ema = {} if state.ema is None else state.ema.state_dict()
    of_optimizers = sum(map(_optimizer_bytes, filter(None, optimizers)))
    return tensor_bytes(state.task.trained_state()) + tensor_bytes(ema) + of_optimizers


def _optimizer_bytes(optimizer: Optimizer) -> int:
    """SGD keeps one tensor a parameter, the Adam family two."""
    tensors = 1 if isinstance(optimizer, SGD) else 2
    return tensors * sum(tensor_bytes(group["params"]) for group in optimizer.param_groups)


def tensor_bytes(obj: Any) -> int:
    """Bytes of all tensors in nested dictionaries, lists and tuples."""
    if isinstance(obj, Tensor):
        return obj.numel() * obj.element_size()
    if isinstance(obj, dict):
        return sum(map(tensor_bytes, obj.values()))
    return sum(map(tensor_bytes, obj)) if isinstance(obj, (list, tuple)) else 0
