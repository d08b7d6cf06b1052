"""Training samples that cannot be read: how many different ones a run has found, and how many it may skip."""

from collections.abc import Callable, Iterable
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
