"""Checks a data set before it is trained on: counts, labels, sizes, and files that cannot be used.

    python -m dataset.check citys /data/cityscapes
    python -m dataset.check custom /data/mine --split train --sample 200 --json report.json

All problems are collected and listed. The exit code is 0 if there are none, 1 if there are some, 2 if the check could
not be run.
"""

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset import DATASETS, dataset_class
from dataset.base import VOID, SegmentationDataset
from dataset.check.report import format_report
from dataset.loading.samplers import evenly_spaced
from dataset.prepared.cache import is_cache
from dataset.reading.files import read_image, read_mask
from dataset.reading.pool import DEFAULT_WORKERS, run_tasks
from utils.cli import Parser

PUBLISHED_COUNTS = {
    "citys": {"train": 2975, "val": 500, "test": 1525},
    "voc": {"train": 10582, "val": 1449},
    "camvid": {"train": 367, "val": 101, "test": 233},
    "ade20k": {"train": 20210, "val": 2000},
    "coco_stuff_164k": {"train": 118287, "val": 5000},
}
_CHUNK = 16
_ROTATED = range(2, 9)  # values of EXIF's orientation other than upright
_EXIF_ORIENTATION = 274


@dataclass
class Findings:
    """Contents of some samples.

    Attributes:
        labels: pixels of each train id, with void as the last one, and images in which it occurs, int64 (2, K + 1).
        problems: (kind, file, message) of each.
        sizes: images of each (height, width).
        notes: images of each harmless peculiarity.
    """

    labels: np.ndarray
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)

    def add(self, other: "Findings") -> None:
        """Adds the findings of other samples."""
        for name, found in vars(other).items():
            setattr(self, name, getattr(self, name) + found)


def check_dataset(
    name: str,
    root: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    *,
    ignore_label: int | None = None,
    workers: int = DEFAULT_WORKERS,
    sample: int | None = None,
) -> dict[str, Any]:
    """Reads the splits of a data set.

    Args:
        name, root, ignore_label: see `build_dataset`.
        splits: those to check; None: all of the data set.
        workers: reading processes; 0 reads in this one.
        sample: number of images read of each split, evenly spaced; None: all. All files are counted.

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
    if ignore_label is not None and not -1 <= ignore_label <= VOID:
        raise ValueError(f"ignore label {ignore_label}: expected a mask value from 0 to 255, or -1 for 255")
    published = PUBLISHED_COUNTS.get(name, {})
    if splits is None:
        splits = kind.SPLITS
        if name not in PUBLISHED_COUNTS and not (folder / "test.txt").is_file():
            splits = [split for split in splits if split != "test"]
    if unknown := [split for split in splits if split not in kind.SPLITS]:
        raise ValueError(f"{name} has no split {unknown[0]!r}; it has {', '.join(kind.SPLITS)}")
    entries = {}
    for split in splits:
        try:
            data = kind(folder, split, ignore_label=ignore_label, max_missing=None)
        except (ValueError, FileNotFoundError) as error:
            sort = "missing folder or list" if isinstance(error, FileNotFoundError) else "unusable list"
            problem = {"kind": sort, "file": "", "message": str(error)}
            entries[split] = {"found": 0, "published": published.get(split), "read": 0, "problems": [problem]}
        else:
            entries[split] = _check_split(data, workers, sample, published.get(split))
    ok = not any(entry["problems"] for entry in entries.values())
    return {"dataset": name, "root": str(folder), "splits": entries, "ok": ok}


def _check_split(data: SegmentationDataset, workers: int, sample: int | None, published: int | None) -> dict[str, Any]:
    indices = evenly_spaced(len(data), len(data) if sample is None else sample)
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    _, total = _read_chunk(data, [])
    with tqdm(total=len(indices), unit="images", desc=f"{data.name} {data.split}", disable=None, leave=False) as bar:
        for count, findings in run_tasks(_read_chunk, data, chunks, workers):
            total.add(findings)
            bar.update(count)
    problems = [dict(zip(("kind", "file", "message"), problem, strict=True)) for problem in sorted(total.problems)]
    if published is not None and len(data) != published:
        message = f"found {len(data)} images, published {published}"
        problems.insert(0, {"kind": "count", "file": "", "message": message})
    entry = {"found": len(data), "published": published, "read": total.sizes.total(), "problems": problems}
    return entry | _images(total) | ({} if data.mask_paths is None else _labels(data, total))


def _read_chunk(data: SegmentationDataset, indices: list[int]) -> tuple[int, Findings]:
    findings = Findings(np.zeros((2, data.num_classes + 1), dtype=np.int64))
    for index in indices:
        _read_sample(data, index, findings)
    return len(indices), findings


def _read_sample(data: SegmentationDataset, index: int, findings: Findings) -> None:
    """Reads one image and its mask; an unreadable one does not hide problems of the other."""
    path, image = data.image_paths[index], None
    try:
        image = read_image(path)
        _add_image(path, image, findings)
    except (ValueError, OSError) as error:
        findings.problems.append(_problem("unreadable image", path, error))
    if data.mask_paths is None:
        return
    kind, path = "unreadable mask", data.mask_paths[index]
    try:
        mask = read_mask(path)
        if image is not None:
            kind = "size"
            data.check_size(index, image.shape[:2], mask.shape)
        kind = "illegal value"
        train_ids = data.to_train_ids(mask, path)
    except (ValueError, OSError) as error:
        findings.problems.append(_problem(kind, path, error))
        return
    counts = np.bincount(train_ids.ravel(), minlength=VOID + 1)
    counts = np.append(counts[: data.num_classes], counts[VOID])
    findings.labels += [counts, counts > 0]


def _problem(kind: str, path: str, error: Exception) -> tuple[str, str, str]:
    if isinstance(error, FileNotFoundError):
        return "missing file", path, f"{path} does not exist"
    return kind, path, str(error)


def _add_image(path: str, image: np.ndarray, findings: Findings) -> None:
    findings.sizes[image.shape[:2]] += 1
    sparse = image[::16, ::16]  # decides most images
    if (sparse == sparse[..., :1]).all() and (image == image[..., :1]).all():
        findings.notes["greyscale"] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as file:
            if file.mode not in ("RGB", "L"):
                findings.notes[f"mode {file.mode}, read as RGB"] += 1
            if file.format == "JPEG" and file.getexif().get(_EXIF_ORIENTATION) in _ROTATED:
                findings.notes["EXIF rotation, which is not applied (masks do not have it)"] += 1


def _images(total: Findings) -> dict[str, Any]:
    if not total.sizes:
        return {}
    by_area = sorted(map(list, total.sizes.elements()), key=math.prod)  # (height, width)
    sizes = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {"sizes": {"different": len(total.sizes)} | sizes, "notes": dict(total.notes)}


def _labels(data: SegmentationDataset, total: Findings) -> dict[str, Any]:
    (*pixels, void), (*images, void_images) = total.labels.tolist()
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
    parser.add_argument("--ignore-label", type=int, help="a further mask value that means ignored")
    parser.add_argument("--sample", type=int, metavar="N", help="read N images of each split instead of all")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the report to this file too")
    args = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise ValueError(f"--json: the folder {args.json.absolute().parent} does not exist")
    report = check_dataset(
        args.dataset, args.root, args.split, ignore_label=args.ignore_label, workers=args.workers, sample=args.sample
    )
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(format_report(report))
    return 0 if report["ok"] else 1
