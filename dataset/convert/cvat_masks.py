"""CVAT's export "Segmentation mask 1.1": coloured masks beside the images, in the folders of Pascal VOC."""

from pathlib import Path, PurePosixPath

from dataset.class_files import read_class_file
from dataset.convert.annotations import Annotations, Sample
from dataset.convert.config import ConvertConfig
from dataset.convert.labels import BLACK, spelled
from dataset.convert.masks import BACKGROUNDS, MaskReader
from dataset.convert.sources import Images, files_below, split_of
from dataset.reading.files import read_text_lines

LABELMAP, MASKS = "labelmap.txt", "SegmentationClass"
LISTS = "ImageSets/Segmentation"


def read_cvat_masks(source: Path, config: ConvertConfig) -> Annotations:
    """The masks of a folder; pixels of the entry "background", or without one black pixels, are what nobody drew.

    Raises:
        FileNotFoundError, ValueError: they are incomplete, or cannot be used; names the file.
    """
    roots = sorted(folder.parent for folder in source.glob(f"**/{MASKS}"))
    tables = [root / LABELMAP for root in roots]
    if missing := [table for table in tables if not table.is_file()]:
        raise FileNotFoundError(f"{missing[0]} does not exist, which names the colours of the masks in {MASKS}")
    if len({table.read_bytes() for table in tables}) > 1:
        raise ValueError(f"{', '.join(map(str, tables))} differ: expected the same labels in all parts of the data set")
    table = read_class_file(tables[0])
    undrawn = any(spelled(name) in BACKGROUNDS for name in table.names)
    if not undrawn and BLACK not in (*table.colors, *table.void_colors):
        table.add(BACKGROUNDS[0], BLACK, None)
    reader = MaskReader(table, config.background)
    images, samples = Images(source, config.skip_bad), []
    for root in roots:
        samples += _samples(root, images)
    return Annotations(reader.labels, samples, reader, images.problems, images.unused())


def _samples(root: Path, images: Images) -> list[Sample]:
    lists = {file.stem.lower(): root / LISTS / file for file in files_below(root / LISTS, (".txt",))}
    if {"train", "val"} & lists.keys():
        lists.pop("trainval", None)
    samples, where = [], PurePosixPath(root.relative_to(images.root).as_posix())
    if lists:
        names = [(name, path) for path in lists.values() for _, name in read_text_lines(path)]
    else:
        below = files_below(root / MASKS, (".png",))
        names = [(str(file.with_suffix("")), root / MASKS) for file in below]
    for name, path in names:
        name = name.split()[0].strip("/") if not (root / MASKS / f"{name}.png").is_file() else name
        split = split_of(where / path.name)
        image = images.find(f"{name}.jpg", str(path), [root / "JPEGImages"], split, any_suffix=True)
        if image is None:
            continue
        own_split, below = images.place(image, split)
        samples.append(Sample(image, own_split, below, str(path), mask=root / MASKS / f"{name}.png"))
    images.close(str(root))
    return samples
