"""Loaders: the training stream in micro-batches, and the evaluation files one by one."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from dataset.base import SegmentationDataset
from dataset.config import AugmentationConfig
from dataset.labels import VOID
from dataset.loading.bad_samples import BadSample, BadSamples, reason_of
from dataset.loading.class_crops import ClassCrops
from dataset.loading.color import ColorChange
from dataset.loading.samplers import MixedOrder, StreamBatchSampler, StreamOrder, evenly_spaced
from dataset.loading.transforms import TrainTransform, rows_read
from dataset.reading.reader import SegmentationLoader
from utils.types import Batch

_TRIES = 100  # replacements tried for one position


class TrainStream:
    """The training samples by their position in the stream."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: TrainTransform,
        seed: int,
        class_crops: ClassCrops | None = None,
        color_jitter: Sequence[float] | None = None,
        order: StreamOrder | None = None,
    ) -> None:
        """`order` is by default a permutation in each epoch."""
        if dataset.mask_paths is None:
            raise ValueError(f"data set {dataset.name}, split {dataset.split} has no masks: it cannot be trained on")
        self.dataset, self.transform = dataset, transform
        self.class_crops, self.color_jitter = class_crops, color_jitter
        self.order = order or StreamOrder(len(dataset), seed)

    def image_path(self, position: int) -> str:
        return self.dataset.image_paths[self.order.index(position)]

    def read(self, positions: list[int], bad: list[BadSample] | None = None) -> Batch:
        """Reads the samples at these positions straight into the arrays of one batch.

        Args:
            positions: in the stream.
            bad: gets the samples that cannot be read; each is replaced by another one that (seed, position) determines.
                None: they are errors.

        Raises:
            ValueError, FileNotFoundError: as reading a sample does; no replacement of a bad sample can be read.
        """
        height, width = self.transform.crop_size
        images = np.empty((len(positions), 3, height, width), dtype=np.uint8)
        target = np.empty((len(positions), height, width), dtype=np.uint8)
        valid_size = np.empty((len(positions), 2), dtype=np.int64)
        for slot, position in enumerate(positions):
            for index in self._candidates(position):
                try:
                    valid_size[slot] = self._read_one(index, position, images[slot], target[slot])
                    break
                except (ValueError, FileNotFoundError) as error:
                    if bad is None:
                        raise
                    bad.append(BadSample(self.dataset.image_paths[index], reason_of(error)))
            else:
                raise ValueError(f"none of {_TRIES} replacements of a bad sample can be read: {bad[-1].reason}")
        return _batch(images, target, valid_size, positions)

    def _candidates(self, position: int) -> Iterator[int]:
        yield self.order.index(position)
        yield from islice(self.order.replacements(position), _TRIES)

    def _read_one(self, index: int, position: int, image_out: np.ndarray, mask_out: np.ndarray) -> tuple[int, int]:
        """Writes sample `index`, augmented for `position`; returns (height, width) of the part that is not padding."""
        mask, rng = self.dataset.view_mask(index), self.order.generator(position)
        window = self.transform.draw(mask.shape, rng)
        # Further draws come behind, so that what is off changes no sample.
        if self.class_crops is not None:
            window = self.class_crops.move(window, mask, rng)
        color = None if self.color_jitter is None else ColorChange.draw(self.color_jitter, rng)
        image = self.dataset.view_image(index, rows_read(window, mask.shape[0]), mask.shape)
        self.transform.apply(image, mask, window, image_out, mask_out, color)
        if self.dataset.is_cached(index):
            self.dataset.cache.check_labels(index, mask_out)
        return window.height, window.width


class EvaluationFiles:
    """Whole images at their own size, one per batch; all labels are 255 if there are no masks."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def read(self, indices: list[int]) -> Batch:
        """Reads the one image with this index."""
        (index,) = indices
        image, mask = self.dataset[index]
        height, width, _ = image.shape
        images = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
        target = np.full((height, width), VOID, dtype=np.uint8) if mask is None else mask
        return _batch(images, target[None], np.array([[height, width]], dtype=np.int64), [index])


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
    augmentation: AugmentationConfig | None = None,
    class_pixels: Sequence[int] | None = None,
    pin_memory: bool = False,
    bad_samples: BadSamples | None = None,
    unlabelled_fraction: float | None = None,
) -> SegmentationLoader:
    """The micro-batches of one process from `start_iteration` on; `accumulation_steps` of them make one iteration.

    Args:
        dataset: a split with masks; it may be smaller than a batch.
        crop_size: (height, width).
        batch_size: samples per iteration of all processes together.
        max_iterations, start_iteration: end and start; the samples are those of a stream from 0.
        accumulation_steps: micro-batches per iteration.
        seed: the same in every process.
        rank, world_size: this process, number of processes.
        workers: reading processes of this process; 0 reads in place.
        augmentation: how the samples are varied; None: the defaults.
        class_pixels: of the whole split, by train id, for crops by class; None: all classes count alike.
        pin_memory: for asynchronous copies to a GPU.
        bad_samples: allows and counts samples that cannot be read; see `SegmentationLoader`.
        unlabelled_fraction: share of each batch without masks; None: as the samples come.

    Raises:
        ValueError: invalid crop or batch sizes; a data set without masks; a fraction of a batch that is no image.
    """
    sampler = StreamBatchSampler(
        batch_size,
        max_iterations,
        start_iteration=start_iteration,
        accumulation_steps=accumulation_steps,
        rank=rank,
        world_size=world_size,
    )
    order = StreamOrder(len(dataset), seed)
    if unlabelled_fraction is not None:
        order = MixedOrder(len(dataset), dataset.num_unlabelled, seed, batch_size, unlabelled_fraction)
    augmentation, crops = augmentation or AugmentationConfig(), None
    if augmentation.crop_by_class:
        crops = ClassCrops(augmentation.crop_by_class, class_pixels or [1] * dataset.num_classes)
    transform = TrainTransform(crop_size, augmentation.scales)
    stream = TrainStream(dataset, transform, seed, crops, augmentation.color_jitter, order)
    return SegmentationLoader(
        stream, workers=workers, seed=seed, bad_samples=bad_samples, batch_sampler=sampler, pin_memory=pin_memory
    )


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
        rank, world_size: this process, number of processes.
        workers: reading processes of this process; with 0, a thread. Both read ahead during prediction.
        limit: number of images, evenly spaced; None: all.
        pin_memory: for asynchronous copies to a GPU.
    """
    labelled = dataset.num_labelled
    indices = evenly_spaced(labelled, labelled if limit is None else limit)[rank::world_size]
    options = {"read_ahead": True, "batch_sampler": [[i] for i in indices], "pin_memory": pin_memory}
    return SegmentationLoader(EvaluationFiles(dataset), workers=workers, **options)


def _batch(images: np.ndarray, target: np.ndarray, valid_size: np.ndarray, positions: list[int]) -> Batch:
    return Batch(*map(torch.from_numpy, (images, target, valid_size)), torch.tensor(positions, dtype=torch.int64))
