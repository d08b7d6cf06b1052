"""Images without labels: which files are meant, which are left out, and how they are read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import features

from dataset.config import ImageConfig
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
from engine.evaluation.videos import VIDEO_SUFFIXES, is_video
from models.classes import Classes
from utils.distributed import all_gather_object, is_main_process
from utils.types import Batch

LIST_SUFFIXES = (".txt", ".lst", ".list")
READ_BY_PILLOW = {".avif": "avif", ".jp2": "jpg_2000", ".j2k": "jpg_2000"}  # suffix -> what Pillow may be built without
READABLE = (*IMAGE_SUFFIXES, *(suffix for suffix, feature in READ_BY_PILLOW.items() if features.check(feature)))
OTHER_PICTURES = (
    *(suffix for suffix in READ_BY_PILLOW if suffix not in READABLE),
    *(
        ".gif",
        ".heic",
        ".heif",
        ".jxl",
        ".jfif",
        ".jpe",
        ".apng",
        ".svg",
        ".psd",
        ".xcf",
        ".ico",
        ".tga",
        ".ppm",
        ".pgm",
    ),
    *(".pbm", ".pnm", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".nii"),
)


@dataclass(frozen=True)
class Unreadable:
    """What a loader gives in place of an image that cannot be read; `reason` names the file."""

    reason: str


class Found(NamedTuple):
    """The images that are meant.

    Attributes:
        root: folder above all of them.
        paths: absolute.
        left_out: what else lies there that looks like pictures or videos, a line each.
    """

    root: Path
    paths: list[Path]
    left_out: list[str]


class ImageFiles:
    """Images as a data set without masks, for `EvaluationFiles` and `PredictionWriter`.

    Args:
        source: a folder (all images in it and below), an image, or a text file with a path a line.
        classes: what is predicted.
        reading: how the files are decoded.
        without: a folder below `source` to leave out: that of the output.

    Attributes:
        root: folder above all images.
        image_paths: absolute paths, sorted where a folder was given.
        mask_paths: None.
        names: of output files, without ending: the paths below `root`; images that differ in their endings alone keep
            them.
        left_out: pictures and videos in the folder that are not among them, a line each.

    Raises:
        FileNotFoundError: the source or a file of the list does not exist, or there is no image.
        ValueError: the source is no image and no list.
    """

    mask_paths = None

    def __init__(
        self,
        source: Path,
        classes: Classes,
        reading: ImageConfig,
        without: Path | None = None,
    ) -> None:
        self.reading = reading
        self.root, paths, self.left_out = find_images(source, without)
        self.image_paths = PathList(paths)
        self.names = image_names([path.relative_to(self.root) for path in paths])
        self.classes, self.palette, self.num_classes = classes.names, classes.palette, len(classes.names)

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


def find_images(source: Path, without: Path | None = None, flag: str = "--images") -> Found:
    """The images of a folder, a list or a file; see `ImageFiles`. `flag` is for messages."""
    source = Path(os.path.abspath(source.expanduser()))
    if not source.exists():
        raise FileNotFoundError(f"{flag} {source} does not exist: expected a folder, an image or a list of images")
    suffix, left_out = source.suffix.lower(), []
    if source.is_dir():
        files = _files_below(source, None if without is None else Path(os.path.abspath(without)))
        root, paths = source, [path for path in files if path.suffix.lower() in READABLE]
        left_out = list(_left_out(root, files))
        if not paths:
            others = "".join(f"\n{line}" for line in left_out)
            raise FileNotFoundError(f"no image in {source} or below; images end in {', '.join(READABLE)}{others}")
    elif suffix in READABLE:
        root, paths = source.parent, [source]
    elif suffix in LIST_SUFFIXES:
        paths = _listed_images(source)
        root = Path(os.path.commonpath([path.parent for path in paths]))
    elif suffix in OTHER_PICTURES:
        raise ValueError(f"--images {source}: {suffix} files are not read: convert it to PNG or JPEG")
    else:
        raise ValueError(
            f"{flag} {source}: expected a folder, an image ({', '.join(READABLE)}), a video "
            f"({', '.join(VIDEO_SUFFIXES)}) or a list of images ({', '.join(LIST_SUFFIXES)}, a path a line)"
        )
    return Found(root, paths, left_out)


def _files_below(folder: Path, without: Path | None) -> list[Path]:
    """All files but hidden ones, sorted."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name) != without]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _left_out(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """What of a folder's files looks like videos or pictures and is not predicted, a line each."""
    for suffixes, what, advice in (
        (VIDEO_SUFFIXES, "video(s)", "name one with --images"),
        (OTHER_PICTURES, "picture(s) of formats that are not read", "convert them to PNG or JPEG"),
    ):
        names = [path.relative_to(root).as_posix() for path in files if path.suffix.lower() in suffixes]
        if names:
            shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
            yield f"{len(names)} {what} are left out ({shown}): {advice}"


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
    if videos := [path for path in found if is_video(path)]:
        raise ValueError(f"{listing} names the video {videos[0]}: expected images; a video is named with --images")
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
