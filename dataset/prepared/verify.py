"""Compares a decoded cache with its checksums and, sample by sample, with its source."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.config import ReadingConfig
from dataset.prepared.cache import is_cache
from dataset.reading.pool import DEFAULT_WORKERS, run_tasks


def verify_cache(
    name: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    reading: ReadingConfig | None = None,
    workers: int = DEFAULT_WORKERS,
) -> list[str]:
    """One line for each problem of the cache `out`; arguments and errors as those of `build_cache`."""
    if not is_cache(out := Path(out).expanduser().absolute()):
        raise ValueError(f"{out} is not a decoded cache")
    problems: list[str] = []
    for split in splits:
        source = build_dataset(name, root, split, reading=reading)
        try:
            cached = build_dataset(name, out, split, reading=reading)
        except ValueError as error:
            problems.append(str(error))
            continue
        old, new = ([os.path.relpath(path, data.root) for path in data.image_paths] for data in (cached, source))
        if old != new:
            problems.append(
                f"split {split}: {len(new)} images in {source.root}, {len(old)} or different images in {out}"
            )
            continue
        found = run_tasks(_compare, (source, cached), range(len(source)), workers)
        problems += filter(None, tqdm(found, f"verify {split}", len(source), unit="samples", disable=None))
    return problems


def _compare(shared: tuple[SegmentationDataset, SegmentationDataset], index: int) -> str:
    """What is wrong with a sample; empty where nothing is."""
    source, cached = shared
    try:
        pairs = zip(cached[index], source[index], strict=True)
        same = all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)
    except (ValueError, OSError) as error:
        return str(error)
    return "" if same else f"{source.image_paths[index]} differs from the decoded cache {cached.cache.folder}"
