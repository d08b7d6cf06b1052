"""What the Cityscapes test server takes: a zip file of one mask of label ids per test image, named after the image."""

import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dataset.base import SegmentationDataset
from utils.distributed import barrier, broadcast_object, is_main_process
from utils.types import Batch

PUBLISHED_COUNT, PUBLISHED_SIZE = 1525, (1024, 2048)  # images; (height, width)
PUBLISHED_NAME = re.compile(r"[a-z-]+_\d{6}_\d{6}_leftImg8bit\.png")  # <city>_<sequence>_<frame>
TEMPORARY = "submission.zip.tmp"
NAMES_SHOWN = 5


def check_submission_request(path: Path, dataset: str, split: str) -> None:
    """Refuses what no submission can be made of, before anything is loaded.

    Raises:
        ValueError: another data set or split, or a path that is no zip file's.
    """
    if (dataset, split) != ("citys", "test"):
        raise ValueError(
            f"--submission with --dataset {dataset} --split {split}: expected --dataset citys --split test, the images "
            "whose labels the Cityscapes server keeps. --save-pred writes the masks of other data sets."
        )
    if path.suffix.lower() != ".zip" or path.is_dir():
        raise ValueError(f"--submission {path}: expected a file to write whose name ends in .zip.")


class Submission:
    """Collects the masks of all processes and zips them when all are there; a hook of `evaluate` and a context manager.

        with Submission(dataset, path) as submission:
            evaluate(..., on_prediction=submission)
            submission.finish()

    Until then masks are kept in the folder `<path>.parts`, which several machines have to share. Leaving the context
    removes it; what a killed evaluation left, the next one removes.

    Args:
        dataset: the test split of Cityscapes.
        path: the zip file, replaced only by a complete one.
        any_count: take a test set that is not the published one of 1,525 images.

    Raises:
        ValueError: the images are not those that the server expects, or two have one name.
    """

    def __init__(self, dataset: SegmentationDataset, path: Path, any_count: bool = False) -> None:
        check_submission_request(path, dataset.name, dataset.split)
        self.path = path
        self.parts = path.with_name(path.name + ".parts")
        self.label_ids = np.asarray(dataset.label_ids, dtype=np.uint8)
        images = [Path(image) for image in dataset.image_paths]
        self.names = [image.name for image in images]
        self.sizes = [_size(image) for image in images]
        _check_images(self.names, self.sizes, any_count)

    def __enter__(self) -> "Submission":
        """Makes the folder of the masks, so that one that cannot be written is met before the work."""
        problem = None
        if is_main_process():
            try:
                self._clear_leftovers()
                self.parts.mkdir(parents=True)
            except OSError as error:
                problem = f"the masks of --submission cannot be collected in {self.parts}: {error}"
        _raise_everywhere(problem)
        return self

    def __exit__(self, *error: object) -> None:
        if is_main_process():
            self._clear()

    def __call__(self, batch: Batch, prediction: Tensor) -> None:
        """Writes the masks of a batch.

        Args:
            batch: gives the images' positions in the data set.
            prediction: train ids, uint8, (N, H, W), on the CPU.
        """
        for position, labels in zip(batch.positions.tolist(), prediction.numpy(), strict=True):
            Image.fromarray(self.label_ids[labels]).save(self.parts / self.names[position])

    def finish(self) -> Path:
        """Waits for all processes, checks every mask and writes the zip file; every process has to call it.

        Raises:
            ValueError: a mask is missing or is not what the server expects; nothing is written.
        """
        barrier()
        problem = None
        if is_main_process():
            try:
                self._check_masks()
                self._zip()
            except (ValueError, OSError) as error:
                problem = f"no submission was written to {self.path}: {error}"
        _raise_everywhere(problem)
        return self.path

    def _check_masks(self) -> None:
        missing = [name for name in self.names if not (self.parts / name).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.names)} masks are missing, expected one of every image: "
                f"{_shown(missing)}. Evaluate again; several machines have to share the zip file's folder"
            )
        wrong = [
            f"{name} ({problem})"
            for name, size in zip(self.names, self.sizes, strict=True)
            if (problem := self._mask_problem(self.parts / name, size))
        ]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of {len(self.names)} masks are not what the server expects: {_shown(wrong)}"
            )

    def _mask_problem(self, path: Path, size: tuple[int, int]) -> str | None:
        try:
            with Image.open(path) as image:
                mode, mask = image.mode, np.asarray(image)
        except (OSError, SyntaxError) as error:
            return f"it cannot be read: {error}"
        if mode != "L" or mask.shape != size:
            return f"expected one channel of {_times(size)} pixels, got mode {mode} and {_times(mask.shape)}"
        illegal = np.setdiff1d(np.flatnonzero(np.bincount(mask.ravel())), self.label_ids)
        return f"it holds {illegal[:NAMES_SHOWN].tolist()}, which are no label ids of a class" if len(illegal) else None

    def _zip(self) -> None:
        """The masks without a folder, in the data set's order; the same masks give the same bytes."""
        temporary = self.parts / TEMPORARY  # in a folder of its own beside the target: the same file system
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG are compressed already
                for name in self.names:
                    entry = zipfile.ZipInfo(name)  # of 1980-01-01
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, (self.parts / name).read_bytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)

    def _clear_leftovers(self) -> None:
        """Removes the folder of the masks where it holds nothing else."""
        others = {file.name for file in self.parts.glob("*")} - {*self.names, TEMPORARY}
        if others:
            raise FileExistsError(f"it holds other files ({_shown(sorted(others))}). Move them, or choose another name")
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)


def _check_images(names: Sequence[str], sizes: Sequence[tuple[int, int]], any_count: bool) -> None:
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(f"{len(doubled)} names stand for more than one test image: {_shown(doubled)}")
    wrong_end = [name for name in names if not name.endswith(".png")]
    if wrong_end:
        raise ValueError(f"masks are named after their images, which have to end in .png: {_shown(wrong_end)}")
    if any_count:
        return
    advice = "Complete the data set, or accept this one with --any-count"
    if len(names) != PUBLISHED_COUNT:
        raise ValueError(
            f"the test split has {len(names)} images; the server expects the masks of {PUBLISHED_COUNT}. {advice}."
        )
    odd = [name for name in names if not PUBLISHED_NAME.fullmatch(name)]
    if odd:
        raise ValueError(
            f"{len(odd)} test images are not named <city>_<sequence>_<frame>_leftImg8bit.png: {_shown(odd)}. {advice}."
        )
    odd = [f"{name} ({_times(size)})" for name, size in zip(names, sizes, strict=True) if size != PUBLISHED_SIZE]
    if odd:
        raise ValueError(
            f"{len(odd)} test images are not of {_times(PUBLISHED_SIZE)} pixels (height x width): {_shown(odd)}. "
            f"{advice}."
        )


def _size(path: Path) -> tuple[int, int]:
    """(height, width), from the file's head."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _raise_everywhere(problem: str | None) -> None:
    """Raises what the main process found in every process, so that none waits for the others."""
    problem = broadcast_object(problem)
    if problem is not None:
        raise ValueError(problem)
