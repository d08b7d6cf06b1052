"""Running figures of a training loop that never make it wait for the device."""

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from utils.distributed import all_gather_cat

_TERMS = 4096  # a bad term is kept as iteration * _TERMS + index of the term, exact in float64 up to 2e12 iterations
GRADIENT = "the gradient"
_GRADIENT = _TERMS - 1  # its index, behind those of all losses


class LossMeter:
    """Means of named losses, summed on the device, and the first loss that was not finite.

    Terms may come and go between updates: each mean is over the updates that had the term.
    """

    def __init__(self) -> None:
        self._names: list[str] = []  # in order of appearance
        self._used: set[str] = set()  # those added since the last read
        self._totals: Tensor | None = None  # (2, T) float64 on the device: sums; numbers of updates
        self._first: Tensor | None = None  # int64 scalar on the device: code of the first bad term, -1 without one
        self._known: int | None = None  # the same on the host, as of the last transfer; None when older than an update

    def update(self, losses: dict[str, Tensor], iteration: int) -> None:
        """Adds one micro-batch and looks for a loss that is not finite: `note` and `add` in one."""
        self.note(losses, iteration)
        self.add(losses)

    @torch.no_grad()
    def note(self, losses: dict[str, Tensor], iteration: int) -> None:
        """Keeps the first loss that is not finite; nothing here waits for the device.

        Args:
            losses: name -> scalar tensor, all on one device.
            iteration: kept when a loss of this micro-batch is the first that is not finite.
        """
        if losses:
            bad = ~torch.isfinite(self._rows(losses)[0])
            self._keep_first(bad.int().argmax(), bad.any(), iteration)

    @torch.no_grad()
    def note_gradient(self, bad: Tensor, iteration: int) -> None:
        """Keeps a gradient that is not finite as the first bad term, unless there is one already.

        Args:
            bad: 0-dimensional bool.
            iteration: of the step.
        """
        self._keep_first(torch.full((), _GRADIENT, device=bad.device), bad, iteration)

    @torch.no_grad()
    def add(self, losses: dict[str, Tensor], keep: Tensor | None = None) -> None:
        """Adds one micro-batch to the means; nothing here waits for the device.

        Args:
            losses: name -> scalar tensor, all on one device.
            keep: 0-dimensional bool on that device; where it is False nothing is added.
        """
        if not losses:
            return
        rows = self._rows(losses).double()
        if keep is not None:
            rows = torch.where(keep, rows, 0.0)
        if self._totals is not None:
            rows[:, : self._totals.shape[1]] += self._totals
        self._totals = rows
        self._used.update(losses)

    def bad(self, device: torch.device) -> Tensor:
        """Whether there was a bad term so far in this process, as 0-dimensional bool on the device."""
        return self._first_on(device) >= 0

    def _rows(self, losses: dict[str, Tensor]) -> Tensor:
        """(2, T): the losses by index, 0 for terms that are missing; and 1 or 0 for whether each is there."""
        self._names += [name for name in losses if name not in self._names]
        assert len(self._names) <= _GRADIENT
        values = [loss.detach().reshape(()).float() for loss in losses.values()]
        zero, one = torch.zeros_like(values[0]), torch.ones_like(values[0])
        given = dict(zip(losses, values, strict=True))
        rows = [given.get(name, zero) for name in self._names], [one if name in given else zero for name in self._names]
        return torch.stack([*rows[0], *rows[1]]).reshape(2, -1)

    def _keep_first(self, code: Tensor, bad: Tensor, iteration: int) -> None:
        first = self._first_on(bad.device)
        self._first = torch.where((first < 0) & bad, code + iteration * _TERMS, first)
        self._known = None

    def _first_on(self, device: torch.device) -> Tensor:
        if self._first is None:
            self._first = torch.full((), -1, dtype=torch.int64, device=device)
        return self._first

    def read(self, across_processes: bool = False) -> dict[str, float]:
        """Means since the last read, and starts the next ones; one transfer from the device.

        Args:
            across_processes: average over the processes and let `first_bad` see those of all. One collective; every
                process has to call it, having been given the same terms.

        Returns:
            name -> mean, in the order in which the terms first appeared; empty when nothing was added.
        """
        if not self._used:
            return {}
        row = torch.cat([self._totals.reshape(-1), self._first_on(self._totals.device).reshape(1).double()])
        table = (all_gather_cat(row[None]) if across_processes else row[None]).tolist()  # a row for each process
        self._known = min((int(line[-1]) for line in table if line[-1] >= 0), default=-1)
        sums = [sum(column) / len(table) for column in zip(*table, strict=True)]
        counts = table[0][self._totals.shape[1] : -1]  # the same in all processes
        used, self._used, self._totals = self._used, set(), None
        return {
            name: total / count if count else math.nan
            for name, total, count in zip(self._names, sums, counts, strict=False)
            if name in used
        }

    def first_bad(self, across_processes: bool = False) -> tuple[int, str] | None:
        """Iteration and name of the first loss that was not finite, or None.

        Right after `read` it costs nothing; otherwise one transfer.

        Args:
            across_processes: look at the losses of all processes; one collective, which every process has to call.
        """
        if across_processes and self._first is not None:
            firsts = [code for code in all_gather_cat(self._first.reshape(1)).tolist() if code >= 0]
            self._known = min(firsts, default=-1)
        if self._known is None and self._first is not None:
            self._known = int(self._first)
        if self._known is None or self._known < 0:
            return None
        iteration, index = divmod(self._known, _TERMS)
        return iteration, GRADIENT if index == _GRADIENT else self._names[index]

    def state_dict(self) -> dict[str, Any]:
        """What was summed since the last read, so that a resumed run logs the same means; built-in types only."""
        sums, counts = ([], []) if self._totals is None else self._totals.tolist()
        groups = [([name], [total], int(n)) for name, total, n in zip(self._names, sums, counts, strict=False) if n]
        return {"names": list(self._names), "groups": groups}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Continues from `state_dict`, with the sums on `device`; groups of several terms have one count for all."""
        self.__init__()
        self._names = list(state["names"])
        totals = torch.zeros(2, len(self._names), dtype=torch.float64)
        for names, sums, count in state["groups"]:
            self._used.update(names)
            for name, total in zip(names, sums, strict=True):
                totals[:, self._names.index(name)] += torch.tensor([total, count], dtype=torch.float64)
        self._totals = totals.to(device)


class RateMeter:
    """Images per second and the time spent waiting for data, between two reads.

    Call `data_ready` when a batch has arrived and `step_done` when it has been used. On a GPU the figures hold from
    read to read when the loop waits for the device in between, as reading the losses does.

    Args:
        clock: seconds, growing.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._mark = clock()
        self._clear()
        self.seconds_per_iteration: float | None = None  # smoothed over the reads; None before the first

    def data_ready(self) -> None:
        """Counts the time since the last mark as waiting for data."""
        self._data += self._lap()

    def step_done(self, images: int, iterations: int = 1) -> None:
        """Counts the time since the last mark as work on `images` images (of all processes)."""
        self._work += self._lap()
        self._images += images
        self._iterations += iterations

    def skip(self) -> None:
        """Forgets the time since the last mark: validation, saving."""
        self._mark = self._clock()

    def read(self) -> dict[str, float]:
        """Figures since the last read, then starts anew; empty when nothing was done.

        Returns:
            images_per_second, seconds_per_iteration, data_seconds (of each iteration, waiting for data).
        """
        self._work += self._lap()  # includes what the loop just waited for
        seconds, images, iterations, data = self._data + self._work, self._images, self._iterations, self._data
        self._clear()
        if not iterations or seconds <= 0:
            return {}
        per_iteration = seconds / iterations
        before = self.seconds_per_iteration
        self.seconds_per_iteration = per_iteration if before is None else 0.7 * before + 0.3 * per_iteration
        return {
            "images_per_second": images / seconds,
            "seconds_per_iteration": per_iteration,
            "data_seconds": data / iterations,
        }

    def eta(self, remaining_iterations: int) -> str:
        """Time left as text, "?" before the first read."""
        if self.seconds_per_iteration is None:
            return "?"
        return format_duration(self.seconds_per_iteration * remaining_iterations)

    def _lap(self) -> float:
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        return seconds

    def _clear(self) -> None:
        self._data = self._work = 0.0
        self._images = self._iterations = 0


def format_duration(seconds: float) -> str:
    """Seconds as "m:ss", "h:mm:ss" or "d days h:mm:ss"."""
    text = str(timedelta(seconds=max(0, round(seconds)))).replace(",", "")
    return text.removeprefix("0:").removeprefix("0")
