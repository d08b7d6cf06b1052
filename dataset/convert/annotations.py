"""What the readers of all formats return, and the drawing of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from dataset.convert.config import ConvertConfig
from dataset.convert.labels import Labels
from dataset.convert.problems import BadObject, NotDrawn, Problems
from dataset.convert.shapes import Shape, Size

HINT = "--skip-bad leaves what is bad out and counts it"


class Object(NamedTuple):
    """A shape to draw.

    Attributes:
        label: train id, 255 for void.
        shape: its pixels.
        layer: those of higher layers are drawn over it.
        below: it is drawn beneath all others, whatever their order.
    """

    label: int
    shape: Shape
    layer: int = 0
    below: bool = False


@dataclass(frozen=True)
class Sample:
    """An image and its annotations.

    Attributes:
        image: its file.
        split: train, val or test; "" where the source does not say it.
        name: of the image among those of its split, with the folders that say something.
        source: the annotations' file, for messages.
        size: (height, width) that they are drawn for, where it is given.
        raw: (what it is called in messages, as the file holds it) of every annotation.
        mask: a label map that stands for them.
    """

    image: Path
    split: str
    name: PurePosixPath
    source: str
    size: Size | None = None
    raw: Sequence[tuple[str, Any]] = ()
    mask: Path | None = None


class Painted(NamedTuple):
    """Train ids of an image, uint8 (H, W), its objects by train id, and what was left out."""

    labels: np.ndarray
    objects: Counter
    problems: Problems


@dataclass
class Annotations:
    """All that a source holds.

    Attributes:
        labels: the classes.
        samples: the images.
        paint: (sample, (height, width) of its annotations) -> the label map.
        problems: what was left out while reading.
        notes: what should be known of the source, as text.
    """

    labels: Labels
    samples: list[Sample]
    paint: Callable[[Sample, Size], Painted]
    problems: Problems
    notes: list[str] = field(default_factory=list)


def draw_sample(
    sample: Sample,
    size: Size,
    *,
    parse: Callable[[Any, Labels, Size], Object],
    labels: Labels,
    config: ConvertConfig,
) -> Painted:
    """The label map of an image's annotations.

    Args:
        sample: the image.
        size: (height, width).
        parse: (annotation as its file holds it, classes, size) -> what to draw.
        labels: the classes.
        config: the order, and whether bad objects are left out.

    Raises:
        ValueError: an annotation is bad; names the file and the object.
    """
    problems, found = Problems(), []
    for what, raw in sample.raw:
        place = f"{sample.source}, {what}"
        try:
            found.append((place, parse(raw, labels, size)))
        except NotDrawn as reason:
            problems.add_object(str(reason), place)
        except BadObject as error:
            if not config.skip_bad:
                raise ValueError(f"{place}: {error}. {HINT}") from error
            problems.add_object(error.kind, place)
            if isinstance(error.rest, Object):
                found.append((place, error.rest))
    drawn, pixels = draw([one for _, one in found], size, labels.nothing, config.order)
    objects = Counter()
    for (place, one), count in zip(found, pixels, strict=True):
        if count:
            objects[one.label] += 1
        else:
            problems.add_object("without the centre of any pixel of the image", place)
    return Painted(drawn, objects, problems)


def draw(objects: Sequence[Object], size: Size, nothing: int, order: str) -> tuple[np.ndarray, list[int]]:
    """Train ids, uint8 (H, W), and the number of pixels of each object, covered ones included.

    Args:
        objects: in the order of the file.
        size: (height, width).
        nothing: train id of the pixels without an object.
        order: "file" draws later ones over earlier ones, by layer; "area" smaller ones over larger ones.
    """
    labels = np.full(size, nothing, dtype=np.uint8)
    patches = [one.shape.patch(size) for one in objects]
    pixels = [int(patch.inside.sum()) for patch in patches]
    heights = [-area for area in pixels] if order == "area" else [one.layer for one in objects]
    for index in sorted(range(len(objects)), key=lambda i: (not objects[i].below, heights[i])):
        patches[index].paint(labels, objects[index].label)
    return labels, pixels
