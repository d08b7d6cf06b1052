"""The DataLoader of this project: errors about files keep their message, bad training samples can be replaced.

Its samples are any object with `read(keys) -> batch`, or `read(keys, bad)` if it can replace bad samples.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from dataset.loading.bad_samples import BadSample, BadSamples, reason_of
from utils.types import Batch

_READ_AHEAD = 2  # batches read while one is in use


class SegmentationLoader(DataLoader):
    """A DataLoader of batches in which a bad file is an error with its own message, also in a worker.

    The plain DataLoader raises a worker's error with the worker's traceback as its text.
    """

    def __init__(
        self,
        samples: Any,
        *,
        workers: int,
        seed: int = 0,
        bad_samples: BadSamples | None = None,
        read_ahead: bool = False,
        **options,
    ) -> None:
        """Wraps `samples`, which are read by key; `options` are for DataLoader.

        Args:
            workers: reading processes; 0 reads in this one.
            seed: of the DataLoader's own generator.
            bad_samples: counts the bad samples of a training stream, each when its batch is taken, and limits how many
                are replaced. None, or a limit of 0: they are errors.
            read_ahead: without workers, a thread reads while the batch before is in use.
        """
        if workers < 0:
            raise ValueError(f"workers {workers}: expected 0 (read in the main process) or more")
        self.bad_samples = bad_samples if bad_samples is not None and bad_samples.allowed else None
        self.read_ahead = read_ahead and workers == 0
        super().__init__(
            _Guarded(samples, self.bad_samples is not None),
            num_workers=workers,
            collate_fn=_same,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(seed),  # else every pass draws from the global generator
            **options,
        )
        self.samples = samples

    def __iter__(self) -> Iterator[Batch]:
        for item in self._ahead() if self.read_ahead else super().__iter__():
            if isinstance(item, Exception):
                raise item
            if item.bad:
                self.bad_samples.add(item.bad)
            yield item.batch

    def _ahead(self) -> Iterator["_Item | Exception"]:
        keys = iter(self.batch_sampler)
        pool = ThreadPoolExecutor(1, "read-ahead")  # decoding releases the interpreter lock
        try:
            waiting = deque(pool.submit(self.dataset.__getitems__, key) for key in islice(keys, 1 + _READ_AHEAD))
            while waiting:
                item = waiting.popleft().result()
                waiting.extend(pool.submit(self.dataset.__getitems__, key) for key in islice(keys, 1))
                if self.pin_memory and isinstance(item, _Item) and isinstance(item.batch, Batch):
                    item = item._replace(batch=Batch(*(field.pin_memory() for field in item.batch)))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


class _Item(NamedTuple):
    """A batch, and the bad samples that were replaced in it."""

    batch: Batch
    bad: list[BadSample]


class _Guarded(Dataset):
    """Returns errors about files as values; any other error is a bug and keeps its traceback."""

    def __init__(self, samples: Any, replace_bad: bool) -> None:
        self.samples, self.replace_bad = samples, replace_bad

    def __getitems__(self, keys: list[int]) -> _Item | Exception:
        bad: list[BadSample] = []
        try:
            batch = self.samples.read(keys, bad) if self.replace_bad else self.samples.read(keys)
        except FileNotFoundError as error:
            return FileNotFoundError(reason_of(error))
        except ValueError as error:  # subclasses may not be picklable
            return ValueError(str(error))
        return _Item(batch, bad)


def _same(item: _Item | Exception) -> _Item | Exception:
    return item


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Signals to the whole process group are for the main process, which ends its workers after saving. SIGTERM ends a
    # worker only if the main process sent it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
