"""Training samples that cannot be read: how many different ones a run has found, and how many it may skip."""

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
    """The different bad samples that this process has found; warns once of each, raises when there are too many.

    Attributes:
        found: reason of each, by its image file, in the order in which they were found.
    """

    def __init__(self, allowed: int, warn: Callable[[str], None]) -> None:
        """Allows up to `allowed` different ones; `warn` gets a message for each."""
        self.allowed, self._warn = allowed, warn
        self.found: dict[str, str] = {}

    def add(self, samples: Iterable[BadSample]) -> None:
        """Adds the bad samples of a batch.

        Raises:
            ValueError: there are now more than allowed; lists them.
        """
        for image, reason in samples:
            if image in self.found:
                continue
            self.found[image] = reason
            if len(self.found) > self.allowed:
                raise ValueError(too_many(self.found, self.allowed))
            self._warn(
                f"bad training sample {len(self.found)} of at most {self.allowed}, replaced by another: {reason}"
            )


def check_samples(read: Callable[[int], object], images: Sequence[str], indices: Iterable[int], allowed: int) -> None:
    """Calls `read` for some samples, with these image files, in parallel; `allowed` of them may be bad.

    Raises:
        ValueError, FileNotFoundError: the first bad sample's error if none is allowed, else one with all reasons.
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
        "Repair them, exclude them with --train-list, or allow more"
    )


def listed(found: dict[str, str]) -> str:
    """One line for each, after a line break; at most the first 50."""
    rest = len(found) - _SHOWN
    lines = [f"\n  {reason}" for reason in list(found.values())[:_SHOWN]]
    return "".join(lines) + (f"\n  and {rest} more" if rest > 0 else "")


def reason_of(error: Exception) -> str:
    """The message of an error about a file."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist"
    return str(error)
