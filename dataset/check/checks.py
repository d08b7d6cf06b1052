"""Checks a data set before it is trained on: counts, labels, sizes, and files that cannot be used.

    python -m dataset.check citys /data/cityscapes
    python -m dataset.check custom /data/mine --split train --sample 200 --json report.json

All problems are collected and listed. The exit code is 0 if there are none, 1 if there are some, 2 if the check could
not be run.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from dataset import DATASETS, dataset_class
from dataset.base import SegmentationDataset
from dataset.check.report import format_report
from dataset.config import ReadingConfig
from dataset.label_counts import LabelCounts, write_counts
from dataset.loading.samplers import evenly_spaced
from dataset.prepared.cache import is_cache
from dataset.reading.pool import DEFAULT_WORKERS, run_tasks
from dataset.survey import Findings, absent_labels, refusals, survey
from utils.cli import Parser
from utils.flags import add_section_flags, read_section

PUBLISHED_COUNTS = {
    "citys": {"train": 2975, "val": 500, "test": 1525},
    "voc": {"train": 10582, "val": 1449},
    "camvid": {"train": 367, "val": 101, "test": 233},
    "ade20k": {"train": 20210, "val": 2000},
    "coco_stuff_164k": {"train": 118287, "val": 5000},
}
_CHUNK = 16


def check_dataset(
    name: str,
    root: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    *,
    reading: ReadingConfig | None = None,
    workers: int = DEFAULT_WORKERS,
    sample: int | None = None,
    save_dir: Path | None = None,
) -> dict[str, Any]:
    """Reads the splits of a data set.

    Args:
        name, root, reading: see `build_dataset`.
        splits: those to check; None: all of the data set.
        workers: reading processes; 0 reads in this one.
        sample: number of images read of each split, evenly spaced; None: all. All files are counted.
        save_dir: folder of runs, in which the pixels of the classes are kept if all training masks were read.

    Returns:
        Plain data: `ok`, and for each split `found`, `published`, `problems` and statistics of images and masks.

    Raises:
        ValueError: an invalid parameter; a decoded cache.
        FileNotFoundError: the folder does not exist.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample {sample}: expected at least 1 image")
    kind = dataset_class(name)
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist")
    if is_cache(folder):
        raise ValueError(
            f"{folder} is a decoded cache: compare it with python -m dataset.prepare {name} ROOT {folder} --verify, "
            "or check ROOT, the folder of the data set"
        )
    published = PUBLISHED_COUNTS.get(name, {})
    if splits is None:
        splits = _splits(kind, folder, reading)
    if unknown := [split for split in splits if split not in kind.SPLITS]:
        raise ValueError(f"{name} has no split {unknown[0]!r}; it has {', '.join(kind.SPLITS)}")
    entries = {}
    for split in splits:
        try:
            data = kind(folder, split, reading=reading, max_missing=None)
        except (ValueError, FileNotFoundError) as error:
            sort = "missing folder or list" if isinstance(error, FileNotFoundError) else "unusable list"
            problem = {"kind": sort, "file": "", "message": str(error)}
            entries[split] = {"found": 0, "published": published.get(split), "read": 0, "problems": [problem]}
        else:
            entries[split] = _check_split(data, workers, sample, published.get(split), save_dir)
    ok = not any(entry["problems"] for entry in entries.values())
    return {"dataset": name, "root": str(folder), "splits": entries, "ok": ok}


def _splits(kind: type[SegmentationDataset], folder: Path, reading: ReadingConfig | None) -> Sequence[str]:
    """Those that a data set has; where that cannot be seen, training and validation are expected."""
    if kind.CLASSES:
        return kind.SPLITS
    try:
        return kind(folder, "train", reading=reading, max_missing=None).splits()
    except (ValueError, FileNotFoundError):
        return kind.SPLITS[:2]


def _check_split(
    data: SegmentationDataset, workers: int, sample: int | None, published: int | None, save_dir: Path | None
) -> dict[str, Any]:
    indices = evenly_spaced(len(data), len(data) if sample is None else sample)
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    total = survey(data, [])
    with tqdm(total=len(indices), unit="images", desc=f"{data.name} {data.split}", disable=None, leave=False) as bar:
        for count, findings in run_tasks(_read_chunk, data, chunks, workers):
            total.add(findings)
            bar.update(count)
    complete = len(indices) == len(data)
    wrong = refusals(data, total, complete) or absent_labels(data, total, complete)
    problems = [problem._asdict() for problem in [*wrong, *sorted(total.problems)]]
    if published is not None and len(data) != published:
        message = f"found {len(data)} images, published {published}"
        problems.insert(0, {"kind": "count", "file": "", "message": message})
    entry = {"found": len(data), "published": published, "read": total.sizes.total(), "problems": problems}
    entry["recognised"] = list(data.notes)
    if save_dir is not None and data.split == "train" and total.masks == len(data):
        entry["label_counts"] = _keep(LabelCounts.of(total.labels), data, save_dir)
    return entry | _images(total) | ({} if data.mask_paths is None else _labels(data, total))


def _keep(counts: LabelCounts, data: SegmentationDataset, save_dir: Path) -> str:
    """Writes the counts and says where; what is found in the data does not depend on it."""
    try:
        return f"pixels of the classes kept in {write_counts(save_dir, data, counts)}"
    except OSError as error:
        return f"WARNING: the pixels of the classes could not be kept: {error}"


def _read_chunk(data: SegmentationDataset, indices: list[int]) -> tuple[int, Findings]:
    return len(indices), survey(data, indices)


def _images(total: Findings) -> dict[str, Any]:
    if not total.sizes:
        return {}
    by_area = sorted(map(list, total.sizes.elements()), key=math.prod)  # (height, width)
    sizes = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {"sizes": {"different": len(total.sizes)} | sizes, "notes": dict(total.notes) | _orientation_notes(total)}


def _orientation_notes(total: Findings) -> dict[str, int]:
    return {f"EXIF orientation, {name}": count for name, count in total.orientations.items()}


def _labels(data: SegmentationDataset, total: Findings) -> dict[str, Any]:
    (*pixels, void), (*images, void_images) = total.labels[:2].tolist()
    labelled = sum(pixels)
    return {
        "void": {"pixels": void, "share": void / max(labelled + void, 1), "images": void_images},
        "classes": [
            {"name": label, "pixels": count, "share": count / max(labelled, 1), "images": occurs_in}
            for label, count, occurs_in in zip(data.classes, pixels, images, strict=True)
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(__doc__, prog="python -m dataset.check")
    parser.add_argument("dataset", metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("root", metavar="ROOT", help="the data set's folder")
    parser.add_argument("--split", nargs="+", choices=("train", "val", "test"), help="default: all of the data set")
    parser.add_argument("--sample", type=int, metavar="N", help="read N images of each split instead of all")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    parser.add_argument(
        "--save-dir", type=Path, default=Path("runs"), metavar="FOLDER",
        help="folder of runs, where training finds the pixels of the classes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the report to this file too")
    add_section_flags(parser.add_argument_group("reading"), ReadingConfig)
    args = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise ValueError(f"--json: the folder {args.json.absolute().parent} does not exist")
    reading = read_section(ReadingConfig, vars(args))
    report = check_dataset(
        args.dataset,
        args.root,
        args.split,
        reading=reading,
        workers=args.workers,
        sample=args.sample,
        save_dir=args.save_dir.expanduser(),
    )
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(format_report(report))
    return 0 if report["ok"] else 1
