"""Pixels of each class in a whole split: counted once in several processes, and kept in a file beside the runs.

    SAVE_DIR/label_counts/<fingerprint>.json

The fingerprint is of the data set, the split, how files are read, and the names, sizes and times of the files, so that
the counts of files that have changed are not used. A decoded cache has that of its source.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dataset.labels import VOID
from dataset.loading.bad_samples import reason_of, too_many
from dataset.prepared.cache import labels_record
from dataset.reading.files import facts_of_files
from dataset.reading.pool import run_tasks
from utils.files import write_text

if TYPE_CHECKING:
    from dataset.base import SegmentationDataset

FOLDER = "label_counts"
FORMAT = {"format": "label counts", "version": 1}
_CHUNK = 16


@dataclass(frozen=True)
class LabelCounts:
    """Counts of each class, by train id.

    Attributes:
        pixels: labelled with it.
        images: in which it occurs.
        image_pixels: labelled pixels, of any class, of these images.
    """

    pixels: tuple[int, ...]
    images: tuple[int, ...]
    image_pixels: tuple[int, ...]

    @classmethod
    def of(cls, rows: np.ndarray) -> "LabelCounts":
        """From the sum of `label_rows` of all masks."""
        return cls(*map(tuple, rows[:, :-1].tolist()))

    def record(self) -> dict[str, list[int]]:
        """As plain data."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def of_record(cls, record: dict[str, list[int]]) -> "LabelCounts":
        """From what `record` returned."""
        return cls(**{name: tuple(values) for name, values in record.items()})


def label_rows(train_ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Of one mask and each train id, with void as the last one: pixels, whether it occurs, labelled pixels if it does.

    Args:
        train_ids: uint8 (H, W).
        num_classes: K.

    Returns:
        int64 (3, K + 1).
    """
    counts = np.bincount(train_ids.ravel(), minlength=VOID + 1)
    counts = np.append(counts[:num_classes], counts[VOID])
    return np.stack([counts, counts > 0, (counts > 0) * counts[:-1].sum()])


def count_labels(data: "SegmentationDataset", workers: int, allowed: int = 0) -> tuple[LabelCounts, dict[str, str]]:
    """Reads all masks of a split.

    Args:
        data: the split.
        workers: reading processes; 0 reads in this one.
        allowed: number of masks that may be unreadable; they are not counted.

    Returns:
        The counts, and the reason of each unreadable mask by its file.

    Raises:
        ValueError, FileNotFoundError: more masks cannot be read, or one that is read holds what is no class.
    """
    chunks = [range(start, min(start + _CHUNK, data.num_labelled)) for start in range(0, data.num_labelled, _CHUNK)]
    total, bad = np.zeros((3, data.num_classes + 1), dtype=np.int64), {}
    text = f"pixels of the classes, {data.split}"
    with tqdm(total=data.num_labelled, unit="masks", desc=text, disable=None, leave=False) as bar:
        for rows, unreadable, count in run_tasks(_count_chunk, (data, allowed > 0), chunks, workers):
            total += rows
            bad |= unreadable
            if len(bad) > allowed:
                raise ValueError(too_many(bad, allowed))
            bar.update(count)
    return LabelCounts.of(total), bad


def _count_chunk(shared: tuple["SegmentationDataset", bool], indices: range) -> tuple[np.ndarray, dict[str, str], int]:
    data, skip_bad = shared
    total, bad = np.zeros((3, data.num_classes + 1), dtype=np.int64), {}
    for index in indices:
        try:
            mask = data.view_mask(index)
            if data.is_cached(index):
                data.cache.check_labels(index, mask)
        except (ValueError, OSError) as error:
            if not skip_bad:
                raise
            bad[data.mask_paths[index]] = reason_of(error)
        else:
            total += label_rows(mask, data.num_classes)
    return total, bad, len(indices)


def read_counts(save_dir: Path, data: "SegmentationDataset") -> LabelCounts | None:
    """The counts of a split that are kept in a folder of runs; None where there are none, or not of these files."""
    folder = save_dir / FOLDER
    if data.mask_paths is None or not folder.is_dir() or not any(folder.glob("*.json")):
        return None
    try:
        content = json.loads((folder / f"{fingerprint(data)}.json").read_text(encoding="utf-8"))
        if {key: content[key] for key in FORMAT} != FORMAT:
            return None
        counts = LabelCounts.of_record(content["counts"])
        numbers = np.array([counts.pixels, counts.images, counts.image_pixels])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged: they are counted again
    fits = numbers.shape == (3, data.num_classes) and numbers.dtype == np.int64 and numbers.min() >= 0
    return counts if fits else None


def write_counts(save_dir: Path, data: "SegmentationDataset", counts: LabelCounts) -> Path:
    """Keeps the counts of a split in a folder of runs, which is made if need be; returns the file."""
    path = save_dir / FOLDER / f"{fingerprint(data)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    what: dict[str, Any] = {
        "dataset": data.name,
        "root": str(data.root),
        "split": data.split,
        "samples": data.num_labelled,
    }
    content = FORMAT | what | {"classes": list(data.classes), "counts": counts.record()}
    write_text(path, json.dumps(content) + "\n")
    return path


def fingerprint(data: "SegmentationDataset") -> str:
    """A hash of the split's files and of how they are read, 16 hexadecimal digits."""
    reading = {"classes": list(data.classes), "labels": labels_record(data.labels), "reading": data.reading.given()}
    digest = hashlib.sha256(json.dumps([data.name, data.split, reading], sort_keys=True).encode())
    for mask, facts in zip(islice(data.mask_paths, data.num_labelled), _facts(data), strict=True):
        digest.update(f"{os.path.relpath(mask, data.root)}\0{facts[0]}\0{facts[1]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _facts(data: "SegmentationDataset") -> list[tuple[int, int]]:
    """(bytes, time) of the two files of each sample."""
    if data.cache is not None:
        return data.cache.source_facts()[: data.num_labelled]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pairs = islice(zip(data.image_paths, data.mask_paths, strict=True), data.num_labelled)
        return list(pool.map(facts_of_files, pairs))
