"""Where the images and label maps of a conversion go, and the folder that takes them."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dataset.class_files import CLASSES_FILE
from dataset.convert.annotations import Sample
from dataset.convert.config import ConvertConfig
from utils.files import write_text

MARKER, SHEET = "conversion.json", "contact_sheet.png"
_UNFINISHED = "conversion.unfinished"
_FOLDERS, _SPLITS = ("images", "masks"), ("train", "val", "test")


class Task(NamedTuple):
    """A sample and where its image and mask go, relative to OUT; no mask for images without labels."""

    sample: Sample
    image: str
    mask: str | None


def plan(samples: Sequence[Sample], config: ConvertConfig) -> list[Task]:
    """Where every sample goes, in the order of the lists.

    Raises:
        ValueError: an image has two sets of annotations; some images are in no split; a validation split is asked for
            and there is one.
    """
    owners: dict[Path, str] = {}
    for sample in samples:
        if sample.image in owners:
            both = f"{owners[sample.image]} and {sample.source}"
            raise ValueError(f"the image {sample.image} is annotated twice, in {both}: take one of them away")
        owners[sample.image] = sample.source
    splits = {sample.split for sample in samples}
    if "" in splits and len(splits) > 1:
        alone = [str(sample.image) for sample in samples if not sample.split]
        raise ValueError(
            f"{len(alone)} image(s) are in the folder or list of no split, the first: {alone[0]}; others are of "
            f"{', '.join(sorted(splits - {''}))}. Put them into one, or take them out of the source"
        )
    if config.val_fraction and "val" in splits:
        raise ValueError(f"--val-fraction {config.val_fraction}: the source has a validation split of its own")
    # The test split of many data sets comes without annotations.
    labelled = {sample.split for sample in samples if sample.raw or sample.mask}
    taken: set[str] = set()
    tasks = []
    for sample in sorted(samples, key=lambda s: (s.split, s.name)):
        name = PurePosixPath(sample.split, *map(_safe, sample.name.parts))
        image = _unique(PurePosixPath("images", name), taken)
        mask = _unique(PurePosixPath("masks", name).with_suffix(".png"), taken)
        tasks.append(Task(sample, image, None if sample.split == "test" and "test" not in labelled else mask))
    return tasks


def _safe(part: str) -> str:
    """A name of a folder or file as list files can hold it."""
    return re.sub(r'[\x00-\x1f\x7f"\ud800-\udfff]', "_", part).strip() or "_"


def _unique(path: PurePosixPath, taken: set[str]) -> str:
    """The path, with a number where another one is the same but for its case."""
    number, tried = 1, path
    while str(tried).lower() in taken:
        number += 1
        tried = path.with_name(f"{path.stem}_{number}{path.suffix}")
    taken.add(str(tried).lower())
    return str(tried)


def list_line(image: str, mask: str | None) -> str:
    """The line of a list file that stands for an image and its mask."""
    odd = re.search(r"[\s,]", image + (mask or ""))
    if mask is None:
        return f'"{image}"' if odd else image
    return f"{image}\t{mask}" if odd else f"{image} {mask}"


def prepare(out: Path, overwrite: bool) -> None:
    """Makes an empty folder that is marked as unfinished.

    Raises:
        ValueError: it holds anything but what a conversion left, or a whole one that is not to be replaced.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: expected a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        ours = (out / MARKER).is_file() or (out / _UNFINISHED).is_file()
        if not ours:
            raise ValueError(f"{out} holds files that no conversion has written: expected a new or empty folder")
        if not overwrite and not (out / _UNFINISHED).is_file():
            raise ValueError(f"{out} holds a conversion already: give another folder, or --overwrite to replace it")
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).touch()
    for folder in _FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in (MARKER, SHEET, CLASSES_FILE, *(f"{split}.txt" for split in _SPLITS)):
        (out / name).unlink(missing_ok=True)


def finish(out: Path, report: Mapping[str, Any], config: ConvertConfig) -> None:
    """Writes what was done, which marks the folder as whole."""
    text = json.dumps({"version": 1, **report, "settings": asdict(config)}, indent=1, default=str)
    write_text(out / MARKER, text + "\n")
    (out / _UNFINISHED).unlink(missing_ok=True)
