"""The random streams of the losses: hashes, which do not depend on the number of processes."""

from enum import IntEnum

from utils.types import Step


class Stream(IntEnum):
    """Separates the random numbers of different selections. A resumed run relies on the values."""

    PARTNERS = 1
    PIXEL_ENTRIES = 2
    PIXEL_SAMPLE = 3
    REGION_SAMPLE = 4
    CHANNEL_ENTRIES = 5
    CHANNEL_SAMPLE = 6
    MASKED_POSITIONS = 7
    REGION_ENTRIES = 8


def rng_key(seed: int, step: Step, stream: Stream) -> tuple[int, int, int, int]:
    """The first numbers of every hash of one stream in one micro-batch."""
    return seed, step.iteration, step.micro_batch, int(stream)
