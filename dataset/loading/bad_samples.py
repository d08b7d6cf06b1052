"""Training samples that cannot be read: how many different ones a run has met, and how many it passes over."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_SHOWN = 50


class BadSample(NamedTuple):
    """A sample that could not be read: its image file, and what is wrong with that or with the mask."""

    image: str
    reason: str


class BadSamples:
    """The different bad samples that this process has met; warns of each once, and stops where there are too many.

    Attributes:
        found: reason of each, by its image file, in the order in which they were met.
    """

    def __init__(self, allowed: int, warn: Callable[[str], None]) -> None:
        """Allows so many different ones; `warn` gets one text for each."""
        self.allowed, self._warn = allowed, warn
        self.found: dict[str, str] = {}

    def add(self, samples: Iterable[BadSample]) -> None:
        """Takes note of what a batch met.

        Raises:
            ValueError: there are now more than allowed; names all of them.
        """
        for sample in samples:
            if sample.image in self.found:
                continue
            self.found[sample.image] = sample.reason
            if len(self.found) > self.allowed:
                raise ValueError(too_many(self.found, self.allowed))
            self._warn(
                f"bad training sample {len(self.found)} of at most {self.allowed}, another one takes its place: "
                f"{sample.reason}"
            )


def check_samples(read: Callable[[int], object], images: Sequence[str], indices: Iterable[int], allowed: int) -> None:
    """Reads some samples at once.

    Args:
        read: reads one.
        images: their image files.
        indices: those to read.
        allowed: so many may be bad.

    Raises:
        ValueError, FileNotFoundError: where none is allowed, the first one's; else ValueError with all reasons.
    """
    found: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        reads = [(index, pool.submit(read, index)) for index in indices]
        try:
            for index, result in reads:
                try:
                    result.result()
                except (ValueError, FileNotFoundError) as error:
                    if not allowed:
                        raise
                    found[images[index]] = reason_of(error)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if len(found) > allowed:
        raise ValueError(too_many(found, allowed))


def too_many(found: dict[str, str], allowed: int) -> str:
    """The error where more samples are bad than --skip-bad-samples allows."""
    return (
        f"{len(found)} training samples cannot be used, and --skip-bad-samples allows {allowed}:{listed(found)}\n"
        "Repair them, leave them out with --train-list, or allow more"
    )


def listed(found: dict[str, str]) -> str:
    """One line for each, after a line break; the first ones of many."""
    rest = len(found) - _SHOWN
    lines = [f"\n  {reason}" for reason in list(found.values())[:_SHOWN]]
    return "".join(lines) + (f"\n  and {rest} more" if rest > 0 else "")


def reason_of(error: Exception) -> str:
    """What to tell of an error about a file."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist"
    return str(error)
