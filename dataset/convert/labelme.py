"""labelme's annotations: a JSON file for each image.

Polygons, rectangles, circles and masks are drawn; points and lines have no area and are counted.
"""

import base64
import binascii
import io
import math
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.convert.annotations import HINT, Annotations, Object, Sample, draw_sample
from dataset.convert.config import ConvertConfig
from dataset.convert.labels import Labels, make_labels, spelled
from dataset.convert.polygons import read_points, read_polygon
from dataset.convert.problems import BadObject, NotDrawn
from dataset.convert.shapes import Bitmap, Ellipse, Polygons, Shape, Size, rectangle
from dataset.convert.sources import Images, files_below, place_of, read_json, read_size

LOOKED_FOR = """\
looked for files *.json with "shapes", such as
  SOURCE/a.jpg and SOURCE/a.json, with --val-fraction
  SOURCE/train/a.jpg and SOURCE/train/a.json, SOURCE/val/b.jpg and SOURCE/val/b.json"""
NO_AREA = ("point", "points", "line", "linestrip")


def read_labelme(source: Path, config: ConvertConfig) -> Annotations:
    """The annotations of a folder.

    Raises:
        FileNotFoundError, ValueError: there are none, or they cannot be used; names the file.
    """
    files, others, coco = list(files_below(source, (".json",))), [], 0
    images, samples, used = Images(source, config.skip_bad), [], Counter()
    for file in tqdm(files, unit="files", desc="reading", disable=None, leave=False):
        try:
            document = read_json(source / file)
        except ValueError as error:
            if not config.skip_bad:
                raise ValueError(f"{error}. {HINT}") from error
            images.problems.add_image("with a damaged JSON file", str(source / file))
            continue
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            others.append(file)
            coco += isinstance(document, dict) and "categories" in document
            continue
        if (sample := _sample(source, file, document, images)) is not None:
            samples.append(sample)
            used.update(" ".join(str(shape.get("label") or "").split()) for _, shape in sample.raw)
    if len(files) == len(others):
        hint = f". {coco} JSON file(s) are COCO's: python -m dataset.convert coco" if coco else ""
        raise FileNotFoundError(f"{source} has no labelme annotations: {LOOKED_FOR}{hint}")
    images.close(str(source))
    notes = [f"{len(others)} JSON file(s) have no shapes: {', '.join(map(str, others[:5]))}"] if others else []
    names = _by_frequency(used) if config.classes is None else list(config.classes)
    labels = make_labels([(name, None) for name in names], config.background)
    paint = partial(draw_sample, parse=parse_shape, labels=labels, config=config)
    return Annotations(labels, samples, paint, images.problems, notes + images.unused())


def _sample(source: Path, file: PurePosixPath, document: dict, images: Images) -> Sample | None:
    """The sample of one JSON file, or None where its image is not found."""
    path, split = source / file, place_of(file.parent.parts).split
    beside = path.with_suffix("")
    named = document.get("imagePath")
    name = named if isinstance(named, str) and named.strip() else beside.name + ".jpg"
    if not (path.parent / name.replace("\\", "/")).is_file() and images.knows(beside.name):
        last = PurePosixPath(name.replace("\\", "/"))
        name = name if last.stem == beside.name else f"{beside.name}{last.suffix}"  # both were renamed
    image = images.find(name, str(path), [path.parent], split, any_suffix=True)
    if image is None:
        return None
    own_split, below = images.place(image, split)
    raw = [
        (f"shape {number} ({shape.get('label')})", shape) if isinstance(shape, dict) else (f"shape {number}", {})
        for number, shape in enumerate(document["shapes"], 1)
    ]
    return Sample(image, own_split, below, str(path), read_size(document, "imageHeight", "imageWidth"), raw)


def _by_frequency(used: Counter) -> list[str]:
    """Labels in alphabetical order; of spellings of one name the most frequent is the first, or else the lower case."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(filter(None, used), key=lambda name: (-used[name], name.swapcase())):
        spellings[spelled(name)].append(name)
    return [name for key in sorted(spellings) for name in spellings[key]]


def parse_shape(raw: dict, labels: Labels, size: Size) -> Object:
    """A shape as what to draw.

    Raises:
        BadObject, NotDrawn: it cannot be drawn, or has no area.
    """
    kind = raw.get("shape_type") or "polygon"  # which early versions did not write
    if kind in NO_AREA:
        raise NotDrawn(f"of the type {kind}, which has no area")
    return Object(labels.id_of(raw.get("label")), _outline(raw, kind))


def _outline(raw: dict, kind: str) -> Shape:
    values = raw.get("points")
    if kind in ("polygon", "oriented_rectangle"):
        return Polygons([read_polygon(values)])
    if kind == "rectangle":
        points = read_points(values, (2, 4), kind)
        return rectangle(*points) if len(points) == 2 else Polygons([np.array(points)])
    if kind == "circle":
        center, border = read_points(values, (2,), kind)
        radius = math.dist(center, border)
        return Ellipse(center, (radius, radius))
    if kind == "mask":
        (x0, y0), _ = read_points(values, (2,), kind)
        return Bitmap(round(y0), round(x0), _decode(raw.get("mask")))
    raise BadObject("an unknown type of shape", f"got {kind!r}: expected polygon, rectangle, circle or mask")


def _decode(text: object) -> np.ndarray:
    """The picture that labelme stores in base 64, bool (h, w)."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            return np.asarray(picture.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError, binascii.Error) as error:
        raise BadObject("a damaged mask", f"expected a PNG in base 64: {error}") from error
