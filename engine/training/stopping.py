"""When training ends: its last iteration, its seconds, or a signal to a process; at the same step in all of them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from engine.run.directory import RunDirectory
from engine.run.state import TrainState
from utils.distributed import all_gather_object, all_reduce_sum, broadcast_object, get_world_size
from utils.logger import RunLogger
from utils.signals import Interrupted, SignalHandler
from utils.types import Batch

LAG = 3  # steps by which a GPU may be ahead of what the host knows of it
AGREE_SECONDS = 1.0  # how often several processes agree on the time, at most


class ValidationStopped(Exception):
    """A signal came before or during validation."""


class StopController:
    """Tells the loop whether to go on. Signals are noted while it is entered.

    Args:
        max_iterations: steps of the whole run.
        max_seconds: of training, or None.
        device: where training runs.
        seconds: of training, before this process.

    Attributes:
        requested: whether a process was asked to stop, as far as all processes know.
    """

    def __init__(
        self, max_iterations: int, max_seconds: float | None, device: torch.device, seconds: float = 0.0
    ) -> None:
        self._max_iterations, self._device = max_iterations, device
        self._signals = SignalHandler()
        self._flags = RankFlags(device, lambda: self._signals.pending)
        self._budget = TimeBudget(max_seconds, seconds)

    def __enter__(self) -> "StopController":
        self._signals.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._signals.__exit__(*error)

    @property
    def requested(self) -> bool:
        return self._flags.stop

    @property
    def seconds(self) -> float:
        """Seconds of training so far, by this process's clock."""
        return self._budget.seconds

    @property
    def progress(self) -> float:
        """Part of `max_seconds` that has passed, the same on all processes; 0 without a limit."""
        return self._budget.progress

    def finished(self, state: TrainState) -> bool:
        """Whether all iterations or seconds have passed, on all processes alike."""
        return state.iteration >= self._max_iterations or self._budget.spent

    def ends(self, state: TrainState) -> bool:
        """Whether no step follows, for any reason."""
        return self.finished(state) or self.requested or state.validation_due

    def exchange(self, bad: Tensor) -> Tensor:
        """Books a step's outcome; see `RankFlags.exchange`. All processes together."""
        return self._flags.exchange(bad)

    def step_done(self) -> None:
        """Books a step's time. With a limit, all processes call it together."""
        if not self._budget.running and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the clock starts when nothing is queued
        self._budget.step_done()

    def paused(self) -> AbstractContextManager:
        """What happens inside is no training: validation, saving."""
        return self._budget.paused()

    def interruptible(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of this process, which end with an error where any process was asked to stop. One collective.

        Raises:
            ValidationStopped: on all processes alike.
        """
        for batch in batches:
            if self._signals.pending:
                break
            yield batch
        if any(all_gather_object(self._signals.pending)):
            raise ValidationStopped

    def raise_if_requested(self, state: TrainState, run: RunDirectory, logger: RunLogger) -> None:
        """Ends the run, on all processes alike, where a signal came before its end; the state has been saved.

        Raises:
            Interrupted: with what continues the run.
        """
        if not state.validation_due and (not self.requested or self.finished(state)):
            return
        logger.warning(
            f"{self._signals.name or 'a signal to another process'}: ending after iteration {state.iteration}"
        )
        raise Interrupted(
            f"the run ended after iteration {state.iteration}, whose state is saved as {run.last_state}. The same "
            "command with --resume auto (and without --overwrite) goes on from there."
        )


class RankFlags:
    """What all processes have to know alike after a step: whether it was bad, and whether training is to stop.

    Several processes exchange two numbers in one small all-reduce a step. The answer about the step stays on the
    device, which masks its update by it. On a GPU the host reads the answer about stopping `LAG` steps late, so that it
    never waits for work that it has only just queued; on the CPU it reads it at once.

    Args:
        device: where training runs.
        wanted: whether this process was asked to stop.
    """

    def __init__(self, device: torch.device, wanted: Callable[[], bool]) -> None:
        self._device, self._wanted = device, wanted
        self._underway: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self.stop = False

    def exchange(self, bad: Tensor) -> Tensor:
        """Books a step; all processes call it together.

        Args:
            bad: 0-dimensional bool, this process's.

        Returns:
            0-dimensional bool, whether it was bad in any process.
        """
        if get_world_size() == 1:
            self.stop = self._wanted()
            return bad
        wanted = torch.full((), float(self._wanted()), device=self._device)
        flags = all_reduce_sum(torch.stack([bad.float(), wanted])) > 0
        if self._device.type == "cpu":
            self.stop = bool(flags[1])
            return flags[0]
        copy = torch.empty(2, dtype=torch.bool, pin_memory=True)
        copy.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._underway.append((copy, event))
        if len(self._underway) > LAG:
            copy, event = self._underway.popleft()
            event.synchronize()
            self.stop = bool(copy[1])
        return flags[0]


class TimeBudget:
    """Counts a run's seconds of training and knows when they are spent.

    Start-up is not counted: the clock starts when the first step of the process is done, in which kernels are chosen
    and compiled; that step is free. Several processes act on the main process's clock alone. It is sent about once a
    second of training, and more often towards the end; in between all processes reckon with the same pace, so that
    their learning rates are equal. One process looks at its clock at every step, which makes it wait for nothing.

    Args:
        limit: seconds after which training ends, or None to count only.
        seconds: of training, before this process.
        clock: seconds, growing.
    """

    def __init__(
        self, limit: float | None = None, seconds: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.limit = limit
        self._clock = clock
        self._counted = seconds
        self._since: float | None = None
        # what all processes know: the time at the last agreement, the steps since, the pace, when to agree again
        self._agreed, self._steps, self._pace, self._next = seconds, 0, 0.0, 1

    @property
    def running(self) -> bool:
        """Whether the clock goes: not before the first step is done, nor inside `paused`."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds of training so far, by this process's clock."""
        return self._counted + (0.0 if self._since is None else self._clock() - self._since)

    @property
    def progress(self) -> float:
        """Part of the limit that has passed, the same on all processes; 0 without a limit."""
        return 0.0 if self.limit is None else min(1.0, self._reckoned() / self.limit)

    @property
    def spent(self) -> bool:
        """Whether training ends here, on all processes alike."""
        return self.limit is not None and self._agreed >= self.limit

    def step_done(self) -> None:
        """Books a step. With a limit, all processes call it together."""
        if not self.running:
            self._since = self._clock()
            return  # a pace measured now, over no step, would put off the next agreement for ever
        self._steps += 1
        if self.limit is not None and self._steps >= self._next:
            self._agree()

    @contextmanager
    def paused(self):
        """What happens inside is no training: validation, saving."""
        self._counted, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = self._clock()

    def _reckoned(self) -> float:
        return self._agreed + self._steps * self._pace

    def _agree(self) -> None:
        before, steps, self._steps = self._agreed, self._steps, 0
        self._agreed = broadcast_object(self.seconds)
        self._pace = (self._agreed - before) / steps
        if get_world_size() > 1 and self._pace > 0:
            wait = min(AGREE_SECONDS, (self.limit - self._agreed) / 2)
            self._next = max(1, min(int(wait / self._pace), 2 * steps))  # the pace of few steps may not last
