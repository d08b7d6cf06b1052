"""Signals: a run that is asked to end finishes its step, saves its state and ends with its own exit code."""

import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# torchrun passes Ctrl-C on to processes that the terminal has sent it to already: only a later one is a second one.
SECONDS_TO_A_SECOND_INTERRUPT = 2.0


class Interrupted(BaseException):
    """A signal ended the run, which can be continued. As KeyboardInterrupt it is not an Exception."""


class SignalHandler:
    """Notes the signals that ask a run to end while it is entered: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's).

    A second Ctrl-C raises KeyboardInterrupt at once. In threads other than the main one nothing is changed and nothing
    is ever pending.

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

    def __enter__(self) -> "SignalHandler":
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
    """From now on the signals raise `Interrupted`; `SignalHandler` takes over while there is something to save.

    Does nothing outside the main thread.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Interrupted(f"{name} before training began, or after its end: nothing was to be saved.")

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)
