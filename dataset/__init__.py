"""Data sets by name."""

import os

from dataset.ade20k import ADE20K
from dataset.base import SegmentationDataset
from dataset.camvid import CamVid
from dataset.cityscapes import Cityscapes
from dataset.coco_stuff_164k import COCOStuff164k
from dataset.config import ReadingConfig
from dataset.custom import Custom, Synthetic
from dataset.voc import PascalVOC
from utils.names import did_you_mean

DATASETS: dict[str, type[SegmentationDataset]] = {
    "citys": Cityscapes,
    "voc": PascalVOC,
    "camvid": CamVid,
    "ade20k": ADE20K,
    "coco_stuff_164k": COCOStuff164k,
    "custom": Custom,
    "synthetic": Synthetic,
}


def build_dataset(
    name: str,
    root: str | os.PathLike[str],
    split: str,
    list_file: str | None = None,
    reading: ReadingConfig | None = None,
    max_missing: int = 0,
) -> SegmentationDataset:
    """Opens a split of a data set; every path is checked.

    Args:
        name: one of `DATASETS`.
        root: the data set's folder, or a decoded cache of it.
        split: train, val or test.
        list_file: a text file of "image mask" lines that replaces the split's own list; paths are absolute or relative
            to `root`.
        reading: how files become images and train ids; None: the defaults.
        max_missing: number of files that may be missing; reading one of them is an error.

    Raises:
        ValueError: unknown name or split, unusable list, a bad value in `reading`, unusable decoded cache.
        FileNotFoundError: the folder, the list or files are missing; the message gives the number of files, the first
            ones and the expected layout.
    """
    return dataset_class(name)(root, split, list_file, reading, max_missing=max_missing)


def dataset_class(name: str) -> type[SegmentationDataset]:
    """The class of a data set; ValueError for an unknown name, with the nearest one."""
    if name not in DATASETS:
        hint = did_you_mean(name, DATASETS, {"pascal": "voc", "coco_stuff": "coco_stuff_164k"})
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(DATASETS)}.{hint}")
    return DATASETS[name]


__all__ = ["DATASETS", "SegmentationDataset", "build_dataset", "dataset_class"]
