"""Signals: a run that is asked to end finishes its step, saves its state and ends with a code of its own."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

import torch
from torch import Tensor

from utils.distributed import all_gather_object, all_reduce_sum, get_world_size
from utils.types import Batch

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# torchrun passes Ctrl-C on to processes that the terminal has sent it to already: only a later one is a second one.
SECONDS_TO_A_SECOND_INTERRUPT = 2.0
LAG = 3  # steps by which a GPU may be ahead of what the host knows of it


class Interrupted(BaseException):
    """A signal ended the run, which can be continued. Like KeyboardInterrupt it is no error that a reader may catch."""


class ValidationBrokenOff(Exception):
    """A signal came during validation."""


class Interrupts:
    """Notes the signals that ask a run to end while it is entered: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's).

    A second Ctrl-C raises KeyboardInterrupt at once. Signals can only be noted in the main thread; in others, and where
    it is not entered, nothing is changed and nothing is ever pending.

    Attributes:
        name: of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._since = 0.0
        self._before: dict[int, object] = {}

    @property
    def pending(self) -> bool:
        """Whether this process was asked to end."""
        return self.name is not None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.name is None:
            self.name, self._since = signal.Signals(number).name, now
        elif number == signal.SIGINT and now - self._since > SECONDS_TO_A_SECOND_INTERRUPT:
            raise KeyboardInterrupt


def end_at_once() -> None:
    """From now on the signals raise `Interrupted`; `Interrupts` takes over while there is something to save.

    Does nothing outside the main thread.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        raise Interrupted(
            f"{signal.Signals(number).name} before training began, or after its end: nothing was to be saved."
        )

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)


class StepAgreement:
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


def until_interrupted(batches: Iterable[Batch], interrupts: Interrupts) -> Iterator[Batch]:
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
