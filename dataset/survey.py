"""What samples of a split hold and what is wrong with it as a whole, for the start of a run and for the check."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dataset.label_counts import LabelCounts, label_rows
from dataset.labels import VOID, ranges, values_of
from dataset.loading.bad_samples import too_many
from dataset.reading.images import read_header, read_image, read_mask, turned

if TYPE_CHECKING:
    from dataset.base import SegmentationDataset

ILLEGAL_VALUE = "illegal value"
NO_LABELS = "no labels"
ONE_BASED = "numbered from 1"
MISSING_FILE = "missing file"
NAMES_SHOWN = 8


class Problem(NamedTuple):
    """What is wrong with a file, or with the split (no file)."""

    kind: str
    file: str
    message: str


@dataclass
class Findings:
    """Contents of some samples.

    Attributes:
        labels: sum of `label_rows` of the masks, int64 (3, K + 1).
        masks: how many were counted.
        values: pixels of each value of masks with one channel, as they are stored.
        problems: with single files.
        sizes: images of each (height, width).
        notes: images of each harmless peculiarity.
        orientations: images that are "turned", are left "as stored" for their mask's sake, or that are turned though
            their mask "fits both".
    """

    labels: np.ndarray
    masks: int = 0
    values: Counter = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)
    orientations: Counter = field(default_factory=Counter)

    def add(self, other: "Findings") -> None:
        """Adds the findings of other samples."""
        for name, found in vars(other).items():
            setattr(self, name, getattr(self, name) + found)


def survey(data: "SegmentationDataset", indices: Iterable[int]) -> Findings:
    """Reads samples; what is wrong with a file is a problem among the findings, and hides none of the others."""
    findings = _nothing(data)
    for index in indices:
        if data.cache is not None:
            _read_cached(data, index, findings)
        else:
            _read_files(data, index, findings)
    return findings


def _nothing(data: "SegmentationDataset") -> Findings:
    return Findings(np.zeros((3, data.num_classes + 1), dtype=np.int64))


def _read_cached(data: "SegmentationDataset", index: int, findings: Findings) -> None:
    try:
        image, train_ids = data[index]
    except (ValueError, OSError) as error:
        findings.problems.append(_problem("damaged", data.image_paths[index], error))
        return
    findings.sizes[image.shape[:2]] += 1
    if train_ids is not None:
        _count(train_ids, data, findings)


def _read_files(data: "SegmentationDataset", index: int, findings: Findings) -> None:
    path, image, mask = data.image_paths[index], None, None
    mask_path = data.mask_paths[index] if data.mask_paths is not None else ""
    if mask_path:
        try:
            mask = read_mask(mask_path)
        except (ValueError, OSError) as error:
            findings.problems.append(_problem("unreadable mask", mask_path, error))
    try:
        size = None if mask is None else mask.shape[:2]
        image = read_image(path, data.reading, size)
        _note_image(path, image, size, data, findings)
    except (ValueError, OSError) as error:
        findings.problems.append(_problem("unreadable image", path, error))
    if mask is None:
        findings.notes["no mask"] += not mask_path and data.mask_paths is not None
        return
    kind = "size"
    try:
        if image is not None:
            data.check_size(index, image.shape[:2], mask.shape[:2])
        kind, values = ILLEGAL_VALUE, values_of(mask)
        findings.values.update(values)
        train_ids = data.labels.train_ids(mask, mask_path)
    except (ValueError, OSError) as error:
        findings.problems.append(_problem(kind, mask_path, error))
        return
    _count(train_ids, data, findings)


def _count(train_ids: np.ndarray, data: "SegmentationDataset", findings: Findings) -> None:
    findings.labels += label_rows(train_ids, data.num_classes)
    findings.masks += 1


def _problem(kind: str, path: str, error: Exception) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem(MISSING_FILE, path, f"{path} does not exist")
    return Problem(kind, path, str(error))


def _note_image(
    path: str, image: np.ndarray, mask: tuple[int, int] | None, data: "SegmentationDataset", findings: Findings
) -> None:
    findings.sizes[image.shape[:2]] += 1
    sparse = image[::16, ::16]  # decides most images
    if (sparse == sparse[..., :1]).all() and (image == image[..., :1]).all():
        findings.notes["greyscale"] += 1
    orientation, stored, mode = read_header(path)
    if orientation in range(2, 9) and data.reading.exif != "ignore":
        upright = stored[::-1] if orientation >= 5 else stored
        if not turned(orientation, stored, data.reading, mask):
            findings.orientations["as stored"] += 1
        else:
            findings.orientations["turned" if mask is None or stored != upright else "fits both"] += 1
    if mode not in ("RGB", "L"):
        findings.notes[f"mode {mode}, read as RGB"] += 1


def check_samples(
    data: "SegmentationDataset", indices: list[int], allowed: int, counts: Callable[[], LabelCounts | None]
) -> list[str]:
    """Reads some samples in parallel; see `SegmentationDataset.check_samples`."""
    found = _nothing(data)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        for one in pool.map(lambda index: survey(data, [index]), indices):
            found.add(one)
    bad: dict[str, Problem] = {}
    for problem in found.problems:
        bad.setdefault(problem.file, problem)
    complete = len(indices) == len(data)
    refused = refusals(data, found, complete)
    if refused and (refused[0].kind != ONE_BASED or not len(bad) <= allowed > 0):
        raise ValueError(refused[0].message)
    if bad and not allowed:
        first = found.problems[0]
        raise (FileNotFoundError if first.kind == MISSING_FILE else ValueError)(first.message)
    if len(bad) > allowed:
        raise ValueError(too_many({path: problem.message for path, problem in bad.items()}, allowed))
    warnings = refused or absent_labels(data, found, complete, full := counts())
    if not refused and full is not None and any(problem.kind == NO_LABELS for problem in warnings):
        raise ValueError(warnings[0].message)
    return [f"WARNING: {problem.message}" for problem in warnings] + orientation_lines(data, found)


def orientation_lines(data: "SegmentationDataset", found: Findings) -> list[str]:
    """What is done to images whose camera noted an orientation, as one line; none without such images."""
    if not found.orientations:
        return []
    sense = {
        "turned": "turned upright",
        "fits both": "turned upright though their mask fits both ways (--exif ignore leaves them)",
        "as stored": "left as they are stored, which alone fits their mask",
    }
    parts = ", ".join(f"{found.orientations[key]} {text}" for key, text in sense.items() if found.orientations[key])
    return [f"{data.split}: of the {found.sizes.total()} images that were opened, with an EXIF orientation: {parts}"]


def refusals(data: "SegmentationDataset", found: Findings, complete: bool) -> list[Problem]:
    """What is wrong with a split as a whole so that no run should start with it.

    Args:
        data: the split.
        found: of some or all of its samples.
        complete: whether of all.
    """
    refused = []
    for kind, rule in (("binary masks", _binary), (ONE_BASED, _one_based), ("train ids", _mistaken_ids)):
        if message := rule(data, found):
            refused.append(Problem(kind, "", f"data set {data.name} in {data.root}, split {data.split}: {message}"))
            found.problems = [
                problem for problem in found.problems if problem.kind != ILLEGAL_VALUE
            ]  # it explains them
    if not refused and complete and data.split == "train":
        refused += [problem for problem in absent_labels(data, found, complete) if problem.kind == NO_LABELS]
    return refused


def absent_labels(
    data: "SegmentationDataset", found: Findings, complete: bool, counts: LabelCounts | None = None
) -> list[Problem]:
    """Whether labels, or some classes of a training split, are missing; `counts`, of all masks, win over `found`."""
    pixels = found.labels[0, :-1] if counts is None else np.array(counts.pixels)
    if data.mask_paths is None or not (found.masks or counts):
        return []
    complete = complete or counts is not None
    where = f"{data.split}: in {'all masks' if complete else f'the {found.masks} masks that were opened'}"
    if not pixels.sum():
        message = f"{where} every pixel is void: there is nothing to learn from or to measure"
        return [Problem(NO_LABELS, "", message)]
    if data.num_classes == 1 and data.split == "train":
        message = (
            f"{data.classes[0]!r} is the only class, so that there is nothing to learn: the loss is 0 whatever is "
            "predicted. Name what surrounds it as a class, such as background"
        )
        return [Problem("one class", "", message)]
    absent = [name for name, count in zip(data.classes, pixels, strict=True) if not count]
    if not absent or data.split != "train" or data.CLASSES:
        return []
    message = f"{where} {len(absent)} of {data.num_classes} classes have no pixel: {some_of(absent)}"
    return [Problem("class without a pixel", "", message)]


def some_of(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _mistaken_ids(data: "SegmentationDataset", found: Findings) -> str:
    return data.mistaken_ids(found.values)


def _binary(data: "SegmentationDataset", found: Findings) -> str:
    """Masks of 0 and 255 whose foreground would be void."""
    only_these = set(found.values) <= {0, VOID} and found.values[VOID]
    if not (only_these and data.labels.implied_void and data.num_classes <= 2):
        return ""
    name = data.classes[-1]
    if data.num_classes == 2:
        fix = f'"{data.classes[0]} = 0" and "{name} = 255" in classes.txt, or --mask-values 0 255'
    else:
        fix = (
            f'name the background as the first class of classes.txt, and "background = 0" and "{name} = 255", or '
            f"--mask-values 0 255; where all else is to be ignored, --mask-values 255 --void-values 0"
        )
    return (
        f"the masks hold {ranges(list(found.values))} alone, and 255 means void unless something else is said, so that "
        f"no pixel of {name!r} would be learnt. If 255 is {name!r}: {fix}. If 255 really is void: --void-values 255"
    )


def _one_based(data: "SegmentationDataset", found: Findings) -> str:
    """Masks that number the classes from 1."""
    count, illegal = data.num_classes, [v for v in found.values if v not in data.labels.values]
    if (
        data.CLASSES
        or data.labels.values.get(0) != 0
        or illegal != [count]
        or any(count < v < VOID for v in found.values)
    ):
        return ""
    numbers = " ".join(str(n) for n in range(1, count + 1)) if count <= 30 else f"1 2 ... {count}"
    zero = "0 for void" if found.values[0] else "and no 0"
    return (
        f"the masks hold {ranges(list(found.values))} and there are {count} classes, so that they seem to be numbered "
        f"from 1, with {zero}: {data.classes[0]!r} = 1, {data.classes[-1]!r} = {count}. Give the map: --mask-values "
        f'{numbers} --void-values 0, or "name = value" lines and "void = 0" in classes.txt. (Where 0 really is '
        f"{data.classes[0]!r}, {count} is something that the list of classes lacks)"
    )
