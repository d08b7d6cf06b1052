"""How all processes of a run learn alike that it is to stop."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from utils.distributed import all_gather_object, all_reduce_sum, get_world_size
from utils.signals import SignalHandler
from utils.types import Batch

LAG = 3  # steps by which a GPU may be ahead of what the host knows of it


class ValidationBrokenOff(Exception):
    """A signal came during validation."""


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


def until_interrupted(batches: Iterable[Batch], interrupts: SignalHandler) -> Iterator[Batch]:
    """The batches of this process, which end with an error where any process was asked to end. One collective.

    Raises:
        ValidationBrokenOff: on all processes alike.
    """
    for batch in batches:
        if interrupts.pending:
            break
        yield batch
    if any(all_gather_object(interrupts.pending)):
        raise ValidationBrokenOff
