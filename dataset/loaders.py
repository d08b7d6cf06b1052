"""Loaders: the training stream in micro-batches, and the evaluation files one by one."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset.base import VOID, SegmentationDataset, evenly_spaced
from dataset.samplers import StreamBatchSampler, StreamOrder
from dataset.transforms import PUBLISHED_SCALES, TrainTransform
from utils.types import Batch


class TrainStream:
    """The training samples by their position in the stream."""

    def __init__(self, dataset: SegmentationDataset, transform: TrainTransform, seed: int) -> None:
        """Binds a data set with masks to a transform and a seed."""
        if dataset.mask_paths is None:
            raise ValueError(f"data set {dataset.name}, split {dataset.split} has no masks: it cannot be trained on")
        self.dataset, self.transform = dataset, transform
        self.order = StreamOrder(len(dataset), seed)

    def image_path(self, position: int) -> str:
        """The image file at a position."""
        return self.dataset.image_paths[self.order.index(position)]

    def read(self, positions: list[int]) -> Batch:
        """Reads the samples at these positions straight into the arrays of one batch."""
        height, width = self.transform.crop_size
        images = np.empty((len(positions), 3, height, width), dtype=np.uint8)
        target = np.empty((len(positions), height, width), dtype=np.uint8)
        valid_size = np.empty((len(positions), 2), dtype=np.int64)
        for slot, position in enumerate(positions):
            image, mask = self.dataset.view(self.order.index(position))
            window = self.transform.draw(mask.shape, self.order.generator(position))
            self.transform.apply(image, mask, window, images[slot], target[slot])
            valid_size[slot] = window.height, window.width
        return _batch(images, target, valid_size, positions)


class EvaluationFiles:
    """Whole images at their own size, one per batch; all labels are 255 where there are no masks."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        """Wraps a data set."""
        self.dataset = dataset

    def read(self, indices: list[int]) -> Batch:
        """Reads the one image asked for."""
        (index,) = indices
        image, mask = self.dataset[index]
        height, width, _ = image.shape
        images = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
        target = np.full((height, width), VOID, dtype=np.uint8) if mask is None else mask
        return _batch(images, target[None], np.array([[height, width]], dtype=np.int64), [index])


class SegmentationLoader(DataLoader):
    """A DataLoader of batches in which a bad file is an error with its own message, also when a worker meets it.

    The plain DataLoader hands a worker's error on with the worker's traceback as its text.
    """

    def __init__(self, samples: TrainStream | EvaluationFiles, *, workers: int, seed: int = 0, **options) -> None:
        """Wraps `samples`; `options` go to DataLoader."""
        if workers < 0:
            raise ValueError(f"workers {workers}: expected 0 (read in the main process) or more")
        super().__init__(
            _Guarded(samples),
            num_workers=workers,
            collate_fn=_same,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(seed),  # else every pass draws from the global generator
            **options,
        )
        self.samples = samples

    def __iter__(self) -> Iterator[Batch]:
        for item in super().__iter__():
            if isinstance(item, _Failure):
                raise item.error()
            yield item


class _Failure:
    """An error on its way from a worker to the main process."""

    def __init__(self, error: Exception) -> None:
        self.kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        self.message = str(error)

    def error(self) -> Exception:
        return self.kind(self.message)


class _Guarded(Dataset):
    """Gives errors about files as values; anything else is a bug and keeps its traceback."""

    def __init__(self, samples: TrainStream | EvaluationFiles) -> None:
        self.samples = samples

    def __getitems__(self, keys: list[int]) -> Batch | _Failure:
        try:
            return self.samples.read(keys)
        except (ValueError, FileNotFoundError) as error:
            return _Failure(error)


def build_train_loader(
    dataset: SegmentationDataset,
    *,
    crop_size: tuple[int, int],
    batch_size: int,
    max_iterations: int,
    start_iteration: int = 0,
    accumulation_steps: int = 1,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    scales: Sequence[float] = PUBLISHED_SCALES,
    flip: bool = True,
    pin_memory: bool = False,
) -> SegmentationLoader:
    """The micro-batches of one process from `start_iteration` on; `accumulation_steps` of them make one iteration.

    Args:
        dataset: a split with masks; it may be smaller than a batch.
        crop_size: (height, width).
        batch_size: samples per iteration of all processes together.
        max_iterations: where the stream ends.
        start_iteration: where it starts; the samples are those of a stream from 0.
        accumulation_steps: micro-batches per iteration.
        seed: the same in every process.
        rank: this process.
        world_size: number of processes.
        workers: reading processes of this process; 0 reads in place.
        scales: random scales.
        flip: mirror half of the samples.
        pin_memory: for copies to a GPU that do not wait.

    Raises:
        ValueError: crop or batch sizes that cannot be; a data set without masks.
    """
    sampler = StreamBatchSampler(
        batch_size,
        max_iterations,
        start_iteration=start_iteration,
        accumulation_steps=accumulation_steps,
        rank=rank,
        world_size=world_size,
    )
    stream = TrainStream(dataset, TrainTransform(crop_size, scales, flip), seed)
    return SegmentationLoader(stream, workers=workers, seed=seed, batch_sampler=sampler, pin_memory=pin_memory)


def build_eval_loader(
    dataset: SegmentationDataset,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    limit: int | None = None,
    pin_memory: bool = False,
) -> SegmentationLoader:
    """Batches of one whole image; `positions` holds its index. Each image goes to one process, none twice.

    Args:
        dataset: any split.
        rank: this process.
        world_size: number of processes.
        workers: reading processes of this process; 0 reads in place.
        limit: only so many images, evenly spaced.
        pin_memory: for copies to a GPU that do not wait.
    """
    indices = evenly_spaced(len(dataset), len(dataset) if limit is None else limit)[rank::world_size]
    return SegmentationLoader(
        EvaluationFiles(dataset), workers=workers, batch_sampler=[[i] for i in indices], pin_memory=pin_memory
    )


def _batch(images: np.ndarray, target: np.ndarray, valid_size: np.ndarray, positions: list[int]) -> Batch:
    return Batch(
        torch.from_numpy(images),
        torch.from_numpy(target),
        torch.from_numpy(valid_size),
        torch.tensor(positions, dtype=torch.int64),
    )


def _same(item: Batch | _Failure) -> Batch | _Failure:
    return item


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Signals to the whole process group are for the main process, which ends its workers when it has saved. Of the
    # signals to end, only the main process's own is obeyed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
