"""Images without labels: which files are meant, how they are read, and the classes that are predicted in them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset import DATASETS
from dataset.class_files import read_class_file
from dataset.config import ImageConfig
from dataset.labels import MAX_CLASSES
from dataset.loading.loaders import EvaluationFiles, SegmentationLoader
from dataset.reading.files import (
    IMAGE_SUFFIXES,
    NAMES_SHOWN,
    PathList,
    missing_files,
    read_text_lines,
    split_list_line,
)
from dataset.reading.images import read_image
from dataset.synthetic import scenes
from engine.config.identify import Identity, count_classes
from models.weights import StateFile
from utils.distributed import all_gather_object, is_main_process
from utils.types import Batch
from utils.visualize import Color, generated_palette

LIST_SUFFIXES = (".txt", ".lst", ".list")


@dataclass(frozen=True)
class Unreadable:
    """What a loader gives in place of an image that cannot be read; `reason` names the file."""

    reason: str


class ImageFiles:
    """Images as a data set without masks, for `EvaluationFiles` and `PredictionWriter`.

    Args:
        source: a folder (all images in it and below), an image, or a text file with a path a line.
        classes, palette: names and colours of what is predicted.
        reading: how the files are decoded.
        without: a folder below `source` to leave out: that of the output.

    Attributes:
        root: folder above all images.
        image_paths: absolute paths, sorted where a folder was given.
        mask_paths: None.
        names: of output files, without ending: the paths below `root`; images that differ in their endings alone keep
            them.

    Raises:
        FileNotFoundError: the source or a file of the list does not exist, or there is no image.
        ValueError: the source is no image and no list.
    """

    mask_paths = None

    def __init__(
        self,
        source: Path,
        classes: Sequence[str],
        palette: Sequence[Color],
        reading: ImageConfig,
        without: Path | None = None,
    ) -> None:
        self.reading = reading
        self.root, paths = find_images(source, without)
        self.image_paths = PathList(paths)
        self.names = image_names([path.relative_to(self.root) for path in paths])
        self.classes, self.palette, self.num_classes = list(classes), list(palette), len(classes)

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, None]:
        """The image, uint8 (H, W, 3)."""
        return read_image(self.image_paths[index], self.reading), None

    def read(self, indices: list[int]) -> Batch | Unreadable:
        """One image as a batch, or why there is none: what `SegmentationLoader` hands on."""
        try:
            return EvaluationFiles(self).read(indices)
        except (ValueError, OSError) as error:
            return Unreadable(str(error))


class ReadableBatches:
    """The batches of a loader of `ImageFiles` without the files that cannot be read, which it collects.

    Args:
        images: what to read.
        rank, world_size: each process takes its share, each image one process.
        workers: reading processes of this process.
        pin_memory: for copies to a GPU that do not wait.

    Attributes:
        unreadable: reasons, after a pass.
    """

    def __init__(
        self, images: ImageFiles, *, rank: int = 0, world_size: int = 1, workers: int = 0, pin_memory: bool = False
    ) -> None:
        batches = [[index] for index in range(rank, len(images), world_size)]
        self._loader = SegmentationLoader(images, workers=workers, batch_sampler=batches, pin_memory=pin_memory)
        self.unreadable: list[str] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable = []
        for item in self._loader:
            if isinstance(item, Unreadable):
                self.unreadable.append(item.reason)
            else:
                yield item


def find_images(source: Path, without: Path | None = None, flag: str = "--images") -> tuple[Path, list[Path]]:
    """The folder above the images and their absolute paths; see `ImageFiles`. `flag` is for messages."""
    source = Path(os.path.abspath(source.expanduser()))
    if not source.exists():
        raise FileNotFoundError(f"{flag} {source} does not exist: expected a folder, an image or a list of images")
    suffix = source.suffix.lower()
    if source.is_dir():
        root, paths = source, _images_below(source, None if without is None else Path(os.path.abspath(without)))
        if not paths:
            raise FileNotFoundError(f"no image in {source} or below; images end in {', '.join(IMAGE_SUFFIXES)}")
    elif suffix in IMAGE_SUFFIXES:
        root, paths = source.parent, [source]
    elif suffix in LIST_SUFFIXES:
        paths = _listed_images(source)
        root = Path(os.path.commonpath([path.parent for path in paths]))
    else:
        raise ValueError(
            f"{flag} {source}: expected a folder, an image ({', '.join(IMAGE_SUFFIXES)}) or a list of images "
            f"({', '.join(LIST_SUFFIXES)}, a path a line)"
        )
    return root, paths


def _images_below(folder: Path, without: Path | None) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name) != without]
        found += [
            Path(place, name) for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def _listed_images(listing: Path) -> list[Path]:
    """First words of the lines, without repetition; relative to the list's folder or else to the current one."""

    def resolve(word: str) -> Path:
        path = Path(word).expanduser()
        beside = Path(os.path.abspath(listing.parent / path))
        return beside if beside.exists() else Path(os.path.abspath(path))

    found: dict[Path, None] = {}
    for number, line in read_text_lines(listing):
        try:
            found[resolve(split_list_line(line, lambda word: resolve(word).is_file())[0])] = None
        except ValueError as error:
            raise ValueError(f"{listing}, line {number}: {error}") from error
    missing = missing_files(map(str, found))
    if missing:
        names = "".join(f"\n  {name}" for name in missing[:NAMES_SHOWN])
        raise FileNotFoundError(f"{len(missing)} of {len(found)} images named in {listing} are missing, first:{names}")
    return list(found)


def image_names(paths: Sequence[Path]) -> list[str]:
    """Names of output files: the relative paths without ending, with it where images differ in nothing else."""
    short = [path.with_suffix("").as_posix() for path in paths]
    count: dict[str, int] = {}
    for name in map(str.casefold, short):
        count[name] = count.get(name, 0) + 1
    names = [name if count[name.casefold()] == 1 else path.as_posix() for name, path in zip(short, paths, strict=True)]
    if len({name.casefold() for name in names}) < len(names):  # a.png and a.jpg beside a.jpg.png
        return [path.as_posix() for path in paths]
    return names


def classes_of_network(
    network: Identity, weights: Path | StateFile, classes_file: Path | None
) -> tuple[list[str], list[Color]]:
    """Names and colours of a network's classes, which need no data.

    Args:
        network: which it is.
        weights: its file, which gives the count where nothing else does.
        classes_file: names the classes where it is given.

    Raises:
        ValueError: an unknown data set, more classes than a mask can hold, or an unusable file.
        FileNotFoundError: no such file.
    """
    if network.dataset not in DATASETS:
        raise ValueError(f"unknown data set {network.dataset!r}; there are {', '.join(DATASETS)}")
    if classes_file is not None:
        table = read_class_file(classes_file)
        return table.names, table.palette()
    known = DATASETS[network.dataset]
    if known.CLASSES:
        return list(known.CLASSES), list(known.PALETTE)
    count = count_classes(network.model, network.backbone, weights)
    if count > MAX_CLASSES:
        raise ValueError(f"the network has {count} classes; a mask holds at most {MAX_CLASSES}")
    if network.dataset == "synthetic" and count == len(scenes.CLASSES):
        return list(scenes.CLASSES), list(scenes.CLASSES.values())
    if is_main_process():
        print(
            f"the names of the {count} classes are not known; --classes FILE gives them, such as the data's classes.txt"
        )
    return [f"class {index}" for index in range(count)], generated_palette(count)


def refuse_unreadable(reasons: Sequence[str], total: int) -> None:
    """Ends a prediction in which files could not be read; to be called by all processes.

    Args:
        reasons: of this process.
        total: how many images there are.

    Raises:
        ValueError: in the main process, with the files of all processes.
    """
    found = [reason for part in all_gather_object(list(reasons)) for reason in part]
    if found and is_main_process():
        shown = "".join(f"\n  {reason}" for reason in found)
        raise ValueError(f"{len(found)} of {total} images could not be read, the others are predicted:{shown}")
