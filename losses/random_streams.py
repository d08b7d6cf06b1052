"""The streams of random numbers that losses draw from: hashes, which do not depend on the number of processes."""

from enum import IntEnum

from utils.types import Step


class Stream(IntEnum):
    """Keeps the random numbers of different selections apart. Values are part of what a resumed run relies on."""

    PARTNERS = 1
    PIXEL_ENTRIES = 2
    PIXEL_SAMPLE = 3
    REGION_SAMPLE = 4
    CHANNEL_ENTRIES = 5
    CHANNEL_SAMPLE = 6
    MASKED_POSITIONS = 7
    REGION_ENTRIES = 8


def rng_key(seed: int, step: Step, stream: Stream) -> tuple[int, int, int, int]:
    """What every random number of one stream in one micro-batch begins its hash with."""
    return seed, step.iteration, step.micro_batch, int(stream)
