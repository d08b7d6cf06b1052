"""The data of a training run: its splits, the check of them, the loader, and reports of bad samples."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.label_counts import LabelCounts, count_labels, read_counts, write_counts
from dataset.loading.bad_samples import BadSamples, listed
from dataset.loading.loaders import SegmentationLoader, build_train_loader
from engine.config.schema import DistillConfig, TrainConfig
from engine.config.unlabelled import UnlabelledConfig
from engine.evaluation.unlabeled_images import find_images
from engine.run.directory import RunDirectory
from engine.run.rank_checks import on_main_process
from losses.task import COUNTED_WEIGHTS
from utils.distributed import all_gather_object, broadcast_object, get_rank, get_world_size, is_main_process
from utils.logger import RunLogger
from utils.settings import flag_of, require

CHECKED_SAMPLES = 50
COUNTS = "pixels of the classes"  # in the state


@dataclass(frozen=True)
class Data:
    """The splits of a run; `val` is None where nothing is validated.

    Attributes:
        notes: what its samples showed that should be known before it starts, a line each.
        counts: of the classes in all training masks, where the run depends on them; part of its state.
    """

    train: SegmentationDataset
    val: SegmentationDataset | None
    notes: tuple[str, ...] = ()
    counts: LabelCounts | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same on resume, as plain data."""
        return {
            "training samples": len(self.train),
            "first training image": Path(self.train.image_paths[0]).name,
            "last training image": Path(self.train.image_paths[len(self.train) - 1]).name,
            "classes": list(self.train.classes),
        } | ({} if self.counts is None else {COUNTS: self.counts.record()})


def build_data(config: TrainConfig, run: RunDirectory, *, validate: bool) -> Data:
    """Lists the splits (every path is checked), opens some samples of each, and counts the classes' pixels if need be.

    The counts of a run that is continued are those of its state.

    Args:
        config: of the run.
        run: its folder, with the state that it continues from.
        validate: whether the validation split is wanted.

    Raises:
        ValueError, FileNotFoundError: for anything wrong with the data; names the files.
    """
    own, reading = config.data, config.reading
    train_set = build_dataset(
        own.dataset,
        own.data,
        "train",
        list_file=own.train_list,
        reading=reading,
        max_missing=own.skip_bad_samples,
    )
    unlabelled = config.unlabelled if isinstance(config, DistillConfig) else None
    if unlabelled is None and train_set.num_unlabelled:
        raise ValueError(
            f"{train_set.num_unlabelled} of {len(train_set)} training images have no mask, first "
            f"{train_set.image_paths[len(train_set) - train_set.num_unlabelled]}: a network that learns from labels "
            "alone cannot use them. Take them out of the list, or distil from a teacher (train_kd.py), which can"
        )
    if unlabelled is not None:
        _add_unlabelled(train_set, unlabelled)
    val_set = None
    if validate:
        val_set = build_dataset(own.dataset, own.data, "val", list_file=own.val_list, reading=reading)
    saved = None if run.state is None else run.state["data"].get(COUNTS)
    counter = LabelCounter(config, train_set, None if saved is None else LabelCounts.of_record(saved))
    notes = on_main_process(lambda: _check_samples(train_set, val_set, own.skip_bad_samples, counter))
    counts = broadcast_object(counter.counts) if counter.needed else None
    return Data(train_set, val_set, (*train_set.notes, *_count_unlabelled(train_set), *notes), counts)


def _add_unlabelled(train_set: SegmentationDataset, config: UnlabelledConfig) -> None:
    if config.unlabelled is not None:
        paths = find_images(config.unlabelled, flag="--unlabelled").paths
        known = set(map(os.path.normpath, train_set.image_paths))
        train_set.add_unlabelled([path for path in map(str, paths) if path not in known])
    if not train_set.num_unlabelled:
        given = [
            flag_of(f.name) for f in fields(UnlabelledConfig) if getattr(config, f.name) != f.default
        ]  # fmt: skip
        require(not given, " and ".join(given), "given", "training images without masks, of which there are none")


def check_unlabelled(data: Data, config: DistillConfig) -> None:
    """Raises a ValueError where images without masks cannot be used as is asked for."""
    counted = config.unlabelled.pseudo_labels or "dkd" in config.distilled[0]  # terms that are means over labels
    if data.train.num_unlabelled and counted and config.optim.accumulation_steps > 1:
        raise ValueError(
            f"--accumulation-steps {config.optim.accumulation_steps} with images without masks: the number of the "
            "teacher's labels in the whole step is not known before its last part, so that --pseudo-labels and dkd "
            "need --accumulation-steps 1"
        )


def _count_unlabelled(train_set: SegmentationDataset) -> list[str]:
    count = train_set.num_unlabelled
    return [f"{count} of the training images have no mask: the teacher alone teaches there"] if count else []


def _check_samples(
    train_set: SegmentationDataset, val_set: SegmentationDataset | None, allowed: int, counter: "LabelCounter"
) -> list[str]:
    """Opens some samples; what is wrong with them is an error, what is odd a line."""
    # the bad ones are reported when training meets them
    notes = train_set.check_samples(CHECKED_SAMPLES, allowed, counter)
    return notes + counter.notes + ([] if val_set is None else val_set.check_samples(CHECKED_SAMPLES))


class LabelCounter:
    """The counts of the classes in a run's training masks: of its state, kept beside the runs, or counted when called.

    Attributes:
        needed: whether the run depends on them; else they are used where they are known.
        counts: None before the call, and where they are neither needed nor known.
        notes: how they came about, a line each.
    """

    def __init__(self, config: TrainConfig, data: SegmentationDataset, saved: LabelCounts | None) -> None:
        self.config, self.data, self.counts = config, data, saved
        self.needed = config.loss.class_weights in COUNTED_WEIGHTS or config.augmentation.crop_by_class > 0
        self.notes: list[str] = []

    def __call__(self) -> LabelCounts | None:
        """Finds or makes them; on the main process alone. With --estimate nothing is counted.

        Raises:
            ValueError, FileNotFoundError: as `count_labels`, where more masks are bad than the run allows.
        """
        folder, allowed = self.config.run.save_dir, self.config.data.skip_bad_samples
        if self.counts is None:
            self.counts = read_counts(folder, self.data)
        if self.counts is not None or not self.needed:
            return self.counts
        if self.config.run.estimate:
            self.notes.append("pixels of the classes: not counted for --estimate, all classes count alike")
            return None
        self.counts, bad = count_labels(self.data, self.config.data.workers, allowed)
        if bad:
            self.notes.append(f"pixels of the classes: {len(bad)} masks cannot be read and are left out{listed(bad)}")
        else:
            kept = write_counts(folder, self.data, self.counts)
            self.notes.append(f"pixels of the classes: counted in {len(self.data)} masks, kept in {kept}")
        return self.counts


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
        augmentation=config.augmentation,
        class_pixels=None if data.counts is None else data.counts.pixels,
        pin_memory=device.type == "cuda",
        unlabelled_fraction=getattr(getattr(config, "unlabelled", None), "unlabelled_fraction", None),
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
