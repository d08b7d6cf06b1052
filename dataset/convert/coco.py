"""COCO's annotations: polygons and run-length codes, in one JSON file for each split.

https://cocodataset.org/#format-data, and Roboflow's and CVAT's exports of it.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from dataset.convert.annotations import HINT, Annotations, Object, Sample, draw_sample
from dataset.convert.config import ConvertConfig
from dataset.convert.labels import Labels, make_labels
from dataset.convert.polygons import read_polygon
from dataset.convert.problems import BadObject
from dataset.convert.rle import decode_runs, decode_string
from dataset.convert.shapes import Bitmap, Polygons, Size
from dataset.convert.sources import Images, files_below, read_json, read_size, split_of
from dataset.labels import VOID

LOOKED_FOR = """\
looked for files *.json with "images" and "categories", such as
  SOURCE/train/_annotations.coco.json and SOURCE/valid/_annotations.coco.json, beside their images
  SOURCE/annotations/instances_train2017.json and instances_val2017.json, with images in SOURCE/train2017 and val2017"""
_ORDER = ("train", "", "val", "test")  # whose file's order of the classes counts


def read_coco(source: Path, config: ConvertConfig) -> Annotations:
    """The annotations of a folder.

    Raises:
        FileNotFoundError, ValueError: there are none, or they cannot be used; names the file.
    """
    files, notes = _find(source)
    images, samples = Images(source, config.skip_bad), []
    for path, document in files:
        samples += _samples(path, document, images, config)
    notes += images.unused()
    used = {name for sample in samples for _, (name, _) in sample.raw}
    entries = _classes(files, used, notes)
    labels = make_labels([(name, None) for name in entries], config.background)
    crowds = sum(bool(raw.get("iscrowd")) for sample in samples for _, (_, raw) in sample.raw)
    if crowds and config.crowd == "void":
        notes.append(
            f"WARNING: {crowds} object(s) are marked as crowds (iscrowd), and void. CVAT marks all its masks so: if "
            "these are objects, --crowd class"
        )
    paint = partial(draw_sample, parse=partial(parse_object, crowds=config.crowd), labels=labels, config=config)
    return Annotations(labels, samples, paint, images.problems, notes)


def parse_object(raw: tuple[str | None, dict], labels: Labels, size: Size, crowds: str) -> Object:
    """What to draw of an annotation.

    Args:
        raw: (name of its category or None, annotation).
        labels: the classes.
        size: (height, width) of the image.
        crowds: "void": crowd regions are, beneath the outlined objects; "class": they are objects of their class.

    Raises:
        BadObject: it cannot be drawn.
    """
    name, annotation = raw
    if name is None:
        raise BadObject("an unknown category", f"category_id {annotation.get('category_id')!r}")
    crowd = bool(annotation.get("iscrowd")) and crowds == "void"
    label = VOID if crowd else labels.id_of(name)
    outline = annotation.get("segmentation")
    if not outline:
        raise BadObject("no outline", "there is no segmentation, perhaps only a box as for detection")
    if isinstance(outline, dict):
        return Object(label, Bitmap(0, 0, _decode(outline, size)), below=crowd)
    parts, bad = [], None
    for part in [outline] if not isinstance(outline[0], (list, tuple)) else outline:
        try:
            parts.append(read_polygon(part))
        except BadObject as error:
            bad = error
    found = Object(label, Polygons(parts), below=crowd)
    if bad is not None:
        bad.rest = found if parts else None
        raise bad
    return found


def _decode(outline: dict, size: Size) -> Any:
    runs, own = outline.get("counts"), outline.get("size")
    if not isinstance(runs, (str, list)) or not isinstance(own, list):
        raise BadObject("no outline", f"expected polygons, or size and counts, got {str(outline)[:60]}")
    if own != list(size):
        shown = "x".join(map(str, own))
        raise BadObject("a run-length code of another size", f"{shown} (height x width), image {size[0]}x{size[1]}")
    try:
        return decode_runs(decode_string(runs) if isinstance(runs, str) else runs, size)
    except ValueError as error:
        raise BadObject("a damaged run-length code", str(error)) from error


def _find(source: Path) -> tuple[list[tuple[PurePosixPath, dict]], list[str]]:
    """(file, content) of each annotation file, those of training first, and what was passed over."""
    files = list(files_below(source, (".json",)))
    instances = {file.parent for file in files if file.name.lower().startswith("instances")}
    others = [file for file in files if file.parent in instances and not file.name.lower().startswith("instances")]
    found, labelme = [], 0
    for file in files:
        if file in others:
            continue
        document = read_json(source / file)
        keys = document if isinstance(document, dict) else {}
        lists = all(isinstance(keys.get(key), list) for key in ("images", "categories"))
        if lists and not any("segments_info" in one for one in (keys.get("annotations") or ())[:1]):  # panoptic
            found.append((file, _checked(source / file, document)))
        else:
            others.append(file)
            labelme += "shapes" in keys
    if not found:
        hint = f". {labelme} JSON file(s) are labelme's: python -m dataset.convert labelme" if labelme else ""
        raise FileNotFoundError(f"{source} has no COCO annotations: {LOOKED_FOR}{hint}")
    notes = [f"{len(others)} JSON file(s) are no instance annotations: {', '.join(map(str, others[:5]))}"]
    found.sort(key=lambda item: (_ORDER.index(split_of(item[0])), item[0]))
    return found, notes if others else []


def _checked(file: Path, document: dict) -> dict:
    """A file's content, whose images and categories have what is needed of them; ValueError where they lack it."""
    document["annotations"] = document.get("annotations") or []
    for key, needed in (("images", "file_name"), ("categories", "name"), ("annotations", None)):
        entries, ids = document[key], set()
        for entry in entries:
            if not isinstance(entry, dict):
                raise ValueError(f"{file}: {key} holds {str(entry)[:60]}: expected {{...}}")
            if needed is None:
                continue
            if not isinstance(entry.get("id"), (int, str)) or not isinstance(entry.get(needed), str):
                raise ValueError(f"{file}: {key} holds {str(entry)[:60]}: expected an id and a {needed}")
            if entry["id"] in ids:
                raise ValueError(f"{file}: {key} holds the id {entry['id']} twice")
            ids.add(entry["id"])
    return document


def _lookup(table: dict, key: Any) -> Any:
    return table.get(key) if isinstance(key, (int, str)) else None


def _samples(path: PurePosixPath, document: dict, images: Images, config: ConvertConfig) -> list[Sample]:
    """The images of one file."""
    file, split = images.root / path, split_of(path)
    names = {category["id"]: category["name"] for category in document["categories"]}
    raw: dict[Any, list[tuple[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for number, annotation in enumerate(document["annotations"]):
        name, image = _lookup(names, annotation.get("category_id")), annotation.get("image_id")
        what = f"annotation {annotation.get('id', f'number {number}')}" + (f" ({name})" if name else "")
        if _lookup(raw, image) is not None:
            raw[image].append((what, (name, annotation)))
        elif not config.skip_bad:
            raise ValueError(f"{file}, {what}: there is no image with the image_id {image!r}. {HINT}")
        else:
            images.problems.add_object("of an unknown image", f"{file}, {what}")
    parent, year = file.parent, path.stem.rpartition("_")[2]
    roots = [parent, parent / "images", images.root, images.root / "images"]
    roots += [root / name for root in (images.root, images.root / "images") for name in dict.fromkeys((year, split))]
    samples = []
    for image in document["images"]:
        image_path = images.find(image["file_name"], str(file), roots, split)
        if image_path is None:
            continue
        own_split, name = images.place(image_path, split)
        samples.append(Sample(image_path, own_split, name, str(file), read_size(image), raw[image["id"]]))
    images.close(str(file))
    return samples


def _classes(files: Sequence[tuple[PurePosixPath, dict]], used: set[str | None], notes: list[str]) -> list[str]:
    """Names in the order of their ids in the first file, then those that only later files have."""
    found: dict[str, None] = {}
    for _, document in files:
        categories = sorted(document["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
        for category in categories:
            if not _is_root(category, categories) or category["name"] in used:
                found[category["name"]] = None
                continue
            line = f"the category {category['name']!r} (id 0), which only groups the others, is left out"
            notes += [line] if line not in notes else []
    return list(found)


def _is_root(category: dict, categories: Sequence[dict]) -> bool:
    """Whether it is the entry that Roboflow writes for the whole data set: the supercategory of all others."""
    others = [other for other in categories if other is not category]
    above = str(category.get("supercategory") or "none").lower()
    return (
        category["id"] == 0
        and above == "none"
        and bool(others)
        and all(other.get("supercategory") == category["name"] for other in others)
    )
