"""Compares a prepared copy with its checksums and, sample by sample, with the files it was made from."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.prepared import PreparedCopy, is_prepared
from dataset.reading.pool import DEFAULT_WORKERS, run_tasks

_CHUNK = 16


def verify(
    name: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    ignore_label: int | None = None,
    workers: int = DEFAULT_WORKERS,
) -> list[str]:
    """Reads every sample of the copy and of its source.

    Args:
        name: one of `DATASETS`.
        root: the data set's folder.
        out: folder of the copy.
        splits: splits to compare.
        ignore_label: as the copy was made with.
        workers: processes; 0 works in this one.

    Returns:
        One line for each thing that is wrong.

    Raises:
        ValueError: `out` is not a copy at all, or a parameter that cannot be.
        FileNotFoundError: the source is not there.
    """
    out = Path(out).expanduser().absolute()
    if not is_prepared(out):
        raise ValueError(f"{out} is not a prepared copy")
    problems: list[str] = []
    for split in splits:
        source = build_dataset(name, root, split, ignore_label=ignore_label)
        try:
            PreparedCopy(out, name, split)
            copied = build_dataset(name, out, split, ignore_label=ignore_label)
        except ValueError as error:
            problems.append(str(error))
            continue
        if names := _other_names(source, copied):
            problems.append(names)
            continue
        chunks = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
        with tqdm(total=len(source), unit="samples", desc=f"verify {split}", disable=None) as bar:
            for chunk, found in run_tasks(_compare, (source, copied), chunks, workers):
                problems += found
                bar.update(len(chunk))
    return problems


def _other_names(source: SegmentationDataset, copied: SegmentationDataset) -> str:
    """What is wrong with the list of files; nothing: an empty string."""
    names = [[os.path.relpath(path, data.root) for path in data.image_paths] for data in (source, copied)]
    if names[0] == names[1]:
        return ""
    return (
        f"split {source.split}: the source {source.root} has {len(names[0])} images and the copy {len(names[1])}, "
        "or other ones; make the copy anew with --overwrite"
    )


def _compare(shared: tuple[SegmentationDataset, SegmentationDataset], chunk: range) -> tuple[range, list[str]]:
    source, copied = shared
    problems = []
    for index in chunk:
        try:
            pairs = zip(copied[index], source[index], strict=True)
            if not all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs):
                problems.append(f"{source.image_paths[index]} is not what the copy {copied.copy.folder} holds")
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return chunk, problems
