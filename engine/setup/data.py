"""The data of a training run: its splits, the check of them, the loader, and reports of bad samples."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.config import ReadingConfig
from dataset.loading.bad_samples import BadSamples, listed
from dataset.loading.loaders import SegmentationLoader, build_train_loader
from engine.config.schema import DataConfig, TrainConfig
from engine.run.rank_checks import on_main_process
from utils.distributed import all_gather_object, get_rank, get_world_size, is_main_process
from utils.logger import RunLogger

CHECKED_SAMPLES = 50


@dataclass(frozen=True)
class Data:
    """The splits of a run; `val` is None where nothing is validated.

    Attributes:
        notes: what its samples showed that should be known before it starts, a line each.
    """

    train: SegmentationDataset
    val: SegmentationDataset | None
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same on resume, as plain data."""
        return {
            "training samples": len(self.train),
            "first training image": Path(self.train.image_paths[0]).name,
            "last training image": Path(self.train.image_paths[len(self.train) - 1]).name,
            "classes": list(self.train.classes),
        }


def build_data(config: DataConfig, reading: ReadingConfig, *, validate: bool) -> Data:
    """Lists the splits (every path is checked) and opens some samples of each.

    Args:
        config: of the data set.
        reading: of its files.
        validate: whether the validation split is wanted.

    Raises:
        ValueError, FileNotFoundError: for anything wrong with the data; names the files.
    """
    train_set = build_dataset(
        config.dataset,
        config.data,
        "train",
        list_file=config.train_list,
        reading=reading,
        max_missing=config.skip_bad_samples,
    )
    val_set = None
    if validate:
        val_set = build_dataset(config.dataset, config.data, "val", list_file=config.val_list, reading=reading)
    notes = on_main_process(lambda: _check_samples(train_set, val_set, config.skip_bad_samples))
    return Data(train_set, val_set, (*train_set.notes, *notes))


def _check_samples(train_set: SegmentationDataset, val_set: SegmentationDataset | None, allowed: int) -> list[str]:
    """Opens some samples; what is wrong with them is an error, what is odd a line."""
    notes = train_set.check_samples(CHECKED_SAMPLES, allowed)  # the bad ones are reported when training meets them
    return notes + ([] if val_set is None else val_set.check_samples(CHECKED_SAMPLES))


def train_loader(
    data: Data,
    config: TrainConfig,
    device: torch.device,
    iteration: int,
    bad_samples: BadSamples | None = None,
) -> SegmentationLoader:
    """The micro-batches of this process from that iteration on; `bad_samples` counts (None: without a report)."""
    return build_train_loader(
        data.train,
        crop_size=config.optim.crop_size,
        batch_size=config.optim.batch_size,
        max_iterations=config.optim.max_iterations,
        start_iteration=iteration,
        accumulation_steps=config.optim.accumulation_steps,
        seed=config.machine.seed,
        rank=get_rank(),
        world_size=get_world_size(),
        workers=config.data.workers,
        pin_memory=device.type == "cuda",
        bad_samples=bad_samples or BadSamples(config.data.skip_bad_samples, lambda text: None),
    )


def warn_on_every_process(logger: RunLogger) -> Callable[[str], None]:
    """Warnings to the run's log, of the processes that have none to the console."""
    if is_main_process():
        return logger.warning
    return lambda text: print(f"WARNING (process {get_rank()}): {text}", file=sys.stderr, flush=True)


def report_bad_samples(bad_samples: BadSamples, logger: RunLogger) -> None:
    """Logs the bad samples that all processes have met; a collective where some are allowed."""
    if bad_samples.allowed:
        found = {image: reason for own in all_gather_object(bad_samples.found) for image, reason in own.items()}
        logger.info(f"bad training samples met and replaced: {len(found)}{listed(found)}")
