"""Writes a source's images and label maps in the layout of custom data sets."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.class_files import CLASSES_FILE
from dataset.convert.annotations import HINT, Painted, Sample
from dataset.convert.config import ConvertConfig
from dataset.convert.labels import Labels, classes_text
from dataset.convert.plan import SHEET, Task, list_line
from dataset.convert.problems import BadImage, Problems
from dataset.convert.shapes import Size
from dataset.convert.sheet import write_sheet
from dataset.folders import held_out
from dataset.labels import VOID
from dataset.reading.images import read_header
from dataset.reading.pool import run_tasks
from utils.files import write_text

_CHUNK = 8


class Outcome(NamedTuple):
    """What became of one sample.

    Attributes:
        index: of its task.
        kept: whether it was written.
        size: (height, width).
        pixels: of each value of its label map.
        objects: of each train id.
        problems: what was left out.
        empty: nothing is drawn in it.
        fits_both: its annotations fit it as it is stored and turned upright.
    """

    index: int
    kept: bool
    size: Size
    pixels: Counter
    objects: Counter
    problems: Problems
    empty: bool = False
    fits_both: bool = False


@dataclass
class Written:
    """What a conversion has written.

    Attributes:
        pairs: of each split the images and masks, relative to OUT.
        empty: of each split the images in which nothing is drawn.
        pixels, images, objects: of each train id, void as 255.
        sizes: images of each (height, width).
        fits_both: images whose EXIF orientation their annotations do not decide.
        problems: what was left out.
    """

    pairs: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    empty: Counter = field(default_factory=Counter)
    pixels: Counter = field(default_factory=Counter)
    images: Counter = field(default_factory=Counter)
    objects: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    fits_both: int = 0
    problems: Problems = field(default_factory=Problems)


def write_all(
    out: Path,
    tasks: Sequence[Task],
    paint: Callable[[Sample, Size], Painted],
    labels: Labels,
    config: ConvertConfig,
    workers: int,
) -> Written:
    """Writes the data set into a prepared folder.

    Args:
        out: the folder.
        tasks: what `plan` returned.
        paint: see `Annotations`.
        labels: the classes.
        config: the settings.
        workers: processes; 0 works in this one.

    Raises:
        ValueError: a bad sample, or no image is left to train on.
    """
    for folder in {(out / path).parent for task in tasks for path in (task.image, task.mask) if path}:
        folder.mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(tasks))
    chunks = [numbered[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    outcomes: list[Outcome] = []
    with tqdm(total=len(tasks), unit="images", desc="converting", disable=None, leave=False) as bar:
        for part in run_tasks(_convert_chunk, (out, paint, config), chunks, workers):
            outcomes += part
            bar.update(len(part))
    written = _summed(tasks, sorted(outcomes, key=lambda outcome: outcome.index))
    if not any(written.pairs.values()):
        crowds = ". COCO's crowd regions are void unless --crowd class is given"
        void = sum(outcome.objects[VOID] for outcome in outcomes)
        raise ValueError(f"no image is left: nothing but void is drawn in any of them{crowds if void else ''}")
    _split(written, config.val_fraction)
    for split, pairs in written.pairs.items():
        write_text(out / f"{split}.txt", "".join(f"{list_line(*pair)}\n" for pair in pairs))
    write_text(out / CLASSES_FILE, classes_text(labels))  # late: without it the folder is not taken for a whole one
    shown = next((pairs for pairs in written.pairs.values() if pairs[0][1]), None)
    if shown:
        write_sheet(out / SHEET, [(out / image, out / mask) for image, mask in shown], labels)
    with suppress(OSError):  # folders of images that were left out
        for folder, _, _ in os.walk(out, topdown=False):
            if folder != str(out) and not os.listdir(folder):
                os.rmdir(folder)
    return written


def _split(written: Written, val_fraction: float) -> None:
    """Orders the splits, and takes the validation split out of the training images."""
    train = written.pairs.get("", []) + written.pairs.get("train", [])
    pairs = {"train": train} | {split: written.pairs.get(split, []) for split in ("val", "test")}
    if val_fraction and len(train) > 1:
        chosen = held_out(train, val_fraction)
        pairs["train"] = [pair for pair, validates in zip(train, chosen, strict=True) if not validates]
        pairs["val"] = [pair for pair, validates in zip(train, chosen, strict=True) if validates]
    written.pairs = {split: found for split, found in pairs.items() if found}


def _summed(tasks: Sequence[Task], outcomes: Iterable[Outcome]) -> Written:
    written = Written()
    for outcome in outcomes:
        task = tasks[outcome.index]
        written.problems.add(outcome.problems)
        written.empty[task.sample.split] += outcome.empty
        written.fits_both += outcome.fits_both
        if outcome.kept:
            written.pairs.setdefault(task.sample.split, []).append((task.image, task.mask))
            written.pixels += outcome.pixels
            written.images.update(outcome.pixels.keys())
            written.objects += outcome.objects
            written.sizes[outcome.size] += 1
    return written


def _convert_chunk(job: tuple[Path, Callable, ConvertConfig], tasks: list[tuple[int, Task]]) -> list[Outcome]:
    return [_convert(*job, index, task) for index, task in tasks]


def _convert(
    out: Path, paint: Callable[[Sample, Size], Painted], config: ConvertConfig, index: int, task: Task
) -> Outcome:
    sample, problems, pixels = task.sample, Problems(), Counter()
    try:
        size, fits_both = fitting_size(sample.image, sample.size, sample.source)
        if task.mask is None:
            _link(sample.image, out / task.image)
            return Outcome(index, True, size, pixels, Counter(), problems, fits_both=fits_both)
        labels, objects, problems = paint(sample, size)
        if labels.shape != size:  # masks may be of the stored picture
            size, fits_both = fitting_size(sample.image, labels.shape, str(sample.mask))
    except BadImage as error:
        if not config.skip_bad:
            raise ValueError(f"{error}. {HINT}") from error
        problems.add_image(error.kind, str(sample.image))
        return Outcome(index, False, (0, 0), pixels, Counter(), problems)
    counts = np.bincount(labels.ravel())
    pixels = Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
    nothing = VOID if config.background is None else 0
    empty = not objects and pixels[nothing] == labels.size
    kept = pixels[VOID] < labels.size
    if kept:
        _link(sample.image, out / task.image)
        Image.fromarray(labels).save(out / task.mask, format="PNG")
    return Outcome(index, kept, size, pixels, objects, problems, empty or not kept, fits_both)


def fitting_size(image: Path, size: Size | None, source: str) -> tuple[Size, bool]:
    """The size of an image's label map, and whether its EXIF orientation leaves open how the image is meant.

    Readers turn an image upright unless that alone keeps it from fitting its mask, so a label map may be of the upright
    or of the stored picture.

    Args:
        image: the file.
        size: (height, width) that its annotations are for; None: the upright picture's.
        source: of the annotations, for messages.

    Raises:
        BadImage: it cannot be read, or has another size.
    """
    try:
        orientation, stored, _ = read_header(str(image))
    except (ValueError, OSError) as error:
        raise BadImage("that cannot be read", str(error)) from error
    upright = stored[::-1] if orientation in range(5, 9) else stored
    if size is None:
        return upright, False
    if size not in (upright, stored):
        raise BadImage(
            "of another size than their annotations",
            f"{source}: the annotations are for {size[1]}x{size[0]} pixels (width x height), and the image {image} has "
            f"{stored[1]}x{stored[0]}: was it resized afterwards?",
        )
    return size, orientation in range(2, 9) and upright == stored


def _link(source: Path, target: Path) -> None:
    """Gives an image a second name in the data set, or copies it where the disk has no such names."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
