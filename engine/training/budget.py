"""Seconds of training, validation and saving apart, and a run that ends when a number of them has passed."""

import time
from collections.abc import Callable
from contextlib import contextmanager

from utils.distributed import broadcast_object, get_world_size

AGREE_SECONDS = 1.0  # how often several processes agree on the time, at most


class TimeBudget:
    """Counts a run's seconds of training and says when they are spent.

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
        before = self._agreed
        self._agreed = broadcast_object(self.seconds)
        self._pace = (self._agreed - before) / self._steps
        self._steps = 0
        if get_world_size() > 1 and self._pace > 0:
            wait = min(AGREE_SECONDS, (self.limit - self._agreed) / 2)
            self._next = max(1, int(wait / self._pace))
