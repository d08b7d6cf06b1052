"""CVAT's exports "CVAT for images 1.1", an XML file, and "Segmentation mask 1.1", coloured masks (`cvat_masks`).

https://docs.cvat.ai/docs/manual/advanced/xml_format/. Polygons, boxes, ellipses and masks are drawn, by their z_order;
points, polylines, cuboids and skeletons are counted.
"""

import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path, PurePosixPath

from dataset.convert.annotations import Annotations, Object, Sample, draw_sample
from dataset.convert.config import ConvertConfig
from dataset.convert.cvat_masks import LABELMAP, MASKS, read_cvat_masks
from dataset.convert.labels import Labels, make_labels
from dataset.convert.polygons import read_numbers, read_polygon
from dataset.convert.problems import BadObject, NotDrawn
from dataset.convert.rle import decode_runs
from dataset.convert.shapes import Bitmap, Ellipse, Polygons, Shape, Size, rectangle
from dataset.convert.sources import Images, files_below, read_size, split_of
from dataset.folders import SPLIT_NAMES
from dataset.labels import Color

LOOKED_FOR = f"""\
looked for
  "CVAT for images 1.1": SOURCE/annotations.xml, with images in SOURCE/images
  "Segmentation mask 1.1": SOURCE/{LABELMAP}, JPEGImages, SegmentationClass, ImageSets/Segmentation/*.txt"""
NO_AREA = ("points", "polyline", "cuboid", "skeleton")


def read_cvat(source: Path, config: ConvertConfig) -> Annotations:
    """The annotations of a folder, of either form.

    Raises:
        FileNotFoundError, ValueError: there are none, or they cannot be used; names the file.
    """
    if next(source.glob(f"**/{MASKS}"), None) is not None:
        return read_cvat_masks(source, config)
    documents = []
    for file in files_below(source, (".xml",)):
        try:
            root = ET.parse(source / file).getroot()
        except ET.ParseError as error:
            raise ValueError(f"{source / file} is no XML file, or a damaged one: {error}") from error
        if root.tag == "annotations" and (root.find("image") is not None or root.find("meta") is not None):
            documents.append((file, root))
    if not documents:
        raise FileNotFoundError(f"{source} has no annotations of CVAT: {LOOKED_FOR}")
    images, samples, entries = Images(source, config.skip_bad), [], {}
    for file, root in documents:
        if root.find("track") is not None:
            raise ValueError(
                f'{source / file} is "CVAT for video 1.1", which outlines the frames of a video: export the task as '
                '"CVAT for images 1.1"'
            )
        samples += _samples(file, root, images)
        for name, color in _declared(root):
            entries[name] = entries.get(name) or color
    if not entries:  # a file without its part "meta"
        entries = dict.fromkeys(sorted({raw.get("label", "") for one in samples for _, (_, raw) in one.raw} - {""}))
    labels = make_labels(entries.items(), config.background)
    paint = partial(draw_sample, parse=parse_element, labels=labels, config=config)
    return Annotations(labels, samples, paint, images.problems, images.unused())


def _declared(root: ET.Element) -> list[tuple[str, Color | None]]:
    """Name and colour of the labels that a file declares, those of a skeleton's points left out."""
    found = []
    for label in root.iterfind("meta//labels/label"):
        name, color = label.findtext("name", "").strip(), label.findtext("color", "").strip()
        if name and not label.findtext("parent", "").strip():
            hexadecimal = re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", color)
            found.append((name, tuple(int(part, 16) for part in hexadecimal.groups()) if hexadecimal else None))
    return found


def _samples(file: PurePosixPath, root: ET.Element, images: Images) -> list[Sample]:
    path, samples = images.root / file, []
    for element in root.iterfind("image"):
        name, subset = element.get("name", ""), element.get("subset", "")
        split = SPLIT_NAMES.get(subset.lower(), "") or split_of(file)
        folders = [path.parent / "images" / subset, path.parent / "images", path.parent, images.root]
        image = images.find(name, str(path), folders, split)
        if image is None:
            continue
        own_split, below = images.place(image, split)
        raw = [
            (f"image {name}, {child.tag} {number} ({child.get('label')})", (child.tag, dict(child.attrib)))
            for number, child in enumerate((child for child in element if child.tag != "tag"), 1)
        ]
        samples.append(Sample(image, own_split, below, str(path), read_size(element.attrib), raw))
    images.close(str(path))
    return samples


def parse_element(raw: tuple[str, dict[str, str]], labels: Labels, size: Size) -> Object:
    """(tag, attributes) of an XML element as what to draw.

    Raises:
        BadObject, NotDrawn: it cannot be drawn, or has no area.
    """
    kind, given = raw
    if kind in NO_AREA:
        raise NotDrawn(f"of the type {kind}, which has no area")
    return Object(labels.id_of(given.get("label")), _outline(kind, given), int(_numbers(given, "z_order")[0]))


def _outline(kind: str, given: dict[str, str]) -> Shape:
    if kind == "polygon":
        text = given.get("points", "")
        pairs = [point.split(",") for point in text.strip(" ;").split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise BadObject("an odd number of coordinates", f"expected x,y;x,y;..., got {text[:60]!r}")
        return Polygons([read_polygon(pairs)])
    if kind == "box":
        x0, y0, x1, y1, angle = _numbers(given, "xtl", "ytl", "xbr", "ybr", "rotation")
        return rectangle((x0, y0), (x1, y1), angle)
    if kind == "ellipse":
        x, y, rx, ry, angle = _numbers(given, "cx", "cy", "rx", "ry", "rotation")
        return Ellipse((x, y), (rx, ry), angle)
    if kind == "mask":
        left, top, width, height = map(int, _numbers(given, "left", "top", "width", "height"))
        try:
            runs = [int(run) for run in given.get("rle", "").split(",")]
            return Bitmap(top, left, decode_runs(runs, (height, width), by_columns=False))
        except ValueError as error:
            raise BadObject("a damaged run-length code", str(error)) from error
    raise BadObject("an unknown type of shape", f"got {kind!r}: expected polygon, box, ellipse or mask")


def _numbers(given: dict[str, str], *names: str) -> list[float]:
    """The values of attributes; those that CVAT leaves out where they are 0 default to it."""
    values = [given.get(name, "0" if name in ("rotation", "z_order") else None) for name in names]
    if None in values:
        raise BadObject("an attribute that is missing", names[values.index(None)])
    return read_numbers(values, ", ".join(names)).tolist()
