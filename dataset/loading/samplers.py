"""The training stream: the sample at each position, and the positions that each process reads in each iteration.

Position p of the stream is sample permutation(seed, p // n)[p % n] with the augmentation drawn from (seed, p). The
global batch of iteration t is the positions t B .. (t + 1) B - 1, for any number of workers and processes.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_ORDER, _AUGMENTATION, _REPLACEMENT = 0, 1, 2  # keep the families of random numbers apart


class StreamOrder:
    """The sample at each position: a new permutation of the data set in every epoch."""

    def __init__(self, num_samples: int, seed: int) -> None:
        """Takes the size of the data set and the seed (an integer from 0)."""
        if seed < 0:
            raise ValueError(f"seed {seed}: expected an integer of at least 0")
        self.num_samples, self.seed = num_samples, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The sample at a position."""
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, self._random(_ORDER, epoch).permutation(self.num_samples)
        return int(self._permutation[offset])

    def generator(self, position: int) -> np.random.Generator:
        """The random generator of the sample at a position."""
        return self._random(_AUGMENTATION, position)

    def replacements(self, position: int) -> Iterator[int]:
        """Samples to try in turn when that of a position cannot be read; (seed, position) determines them."""
        rng = self._random(_REPLACEMENT, position)
        while True:
            yield int(rng.integers(self.num_samples))

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=key)))


class MixedOrder(StreamOrder):
    """As `StreamOrder`, with a fixed number of samples without masks in every batch, evenly spread over it.

    Those with and those without masks are each a stream of permutations. At position p the samples without are the
    places s of the batch where floor((s + 1) f) > floor(s f), for their share f.
    """

    def __init__(self, num_samples: int, num_unlabelled: int, seed: int, batch_size: int, fraction: float) -> None:
        """The last `num_unlabelled` samples have no mask; ValueError where the share is no image or all of a batch."""
        super().__init__(num_samples, seed)
        places = np.arange(batch_size)
        self.unlabelled = np.floor((places + 1) * fraction + 1e-9) > np.floor(places * fraction + 1e-9)
        count = int(self.unlabelled.sum())
        if not 0 < count < batch_size:
            raise ValueError(
                f"--unlabelled-fraction {fraction:g} of a batch of {batch_size} is {count} image(s): expected at least "
                "one of both kinds"
            )
        self.streams = {
            True: StreamOrder(num_unlabelled, seed + 1),
            False: StreamOrder(num_samples - num_unlabelled, seed),
        }

    def index(self, position: int) -> int:
        """The sample at a position."""
        batch, place = divmod(position, len(self.unlabelled))
        kind = bool(self.unlabelled[place])
        of_kind = self.unlabelled == kind
        index = self.streams[kind].index(batch * int(of_kind.sum()) + int(of_kind[:place].sum()))
        return index + (self.streams[False].num_samples if kind else 0)


class StreamBatchSampler(Sampler[list[int]]):
    """The positions of each micro-batch of one process, from any iteration on.

    Micro-batch a of an iteration is the a-th contiguous part of its global batch, and each process takes a contiguous
    slice of that.
    """

    def __init__(
        self,
        batch_size: int,
        max_iterations: int,
        *,
        start_iteration: int = 0,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Splits the global batch; ValueError where it does not divide by accumulation_steps * world_size."""
        parts = accumulation_steps * world_size
        if batch_size < 1 or parts < 1:
            raise ValueError(
                f"batch size {batch_size}, accumulation steps {accumulation_steps}, processes {world_size}: "
                "each must be at least 1"
            )
        if batch_size % parts:
            below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
            divisors = [n for n in range(1, batch_size + 1) if batch_size % (accumulation_steps * n) == 0]
            raise ValueError(
                f"batch size {batch_size} (of all processes together) does not divide by {accumulation_steps} "
                f"accumulation step(s) x {world_size} process(es) = {parts}; batch sizes that do: "
                f"{', '.join(str(size) for size in (below, above) if size)}"
                + (f"; numbers of processes that do: {', '.join(map(str, divisors))}" if divisors else "")
            )
        self.batch_size, self.accumulation_steps = batch_size, accumulation_steps
        self.start_iteration, self.max_iterations = start_iteration, max_iterations
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(0, self.max_iterations - self.start_iteration) * self.accumulation_steps

    def __iter__(self) -> Iterator[list[int]]:
        micro_batch = self.batch_size // self.accumulation_steps
        own = micro_batch // self.world_size
        for iteration in range(self.start_iteration, self.max_iterations):
            for part in range(self.accumulation_steps):
                start = iteration * self.batch_size + part * micro_batch + self.rank * own
                yield list(range(start, start + own))


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` indices spread evenly over range(total), the first one included; all if there are fewer."""
    count = min(total, count)
    return [index * total // count for index in range(count)]
