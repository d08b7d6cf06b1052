"""Roboflow's export "semantic segmentation masks": NAME_mask.png beside the images, and _classes.csv, in each split."""

from pathlib import Path, PurePosixPath

from dataset.class_files import read_class_file
from dataset.convert.annotations import HINT, Annotations, Sample
from dataset.convert.config import ConvertConfig
from dataset.convert.masks import MaskReader
from dataset.convert.problems import Problems
from dataset.convert.sources import files_below, place_of
from dataset.reading.files import IMAGE_SUFFIXES

CLASSES = "_classes.csv"
ENDING = "_mask"
LOOKED_FOR = f"""\
looked for {CLASSES} ("Pixel Value, Class") and masks beside images, such as
  SOURCE/train/{CLASSES}, SOURCE/train/a.jpg and SOURCE/train/a{ENDING}.png, and the same in valid and test"""


def read_roboflow(source: Path, config: ConvertConfig) -> Annotations:
    """The masks of a folder; the entry "background" of the file of classes is what nobody drew.

    Raises:
        FileNotFoundError, ValueError: they are incomplete, or cannot be used; names the file.
    """
    tables = [source / file for file in files_below(source, (".csv",)) if file.name.lower() == CLASSES]
    files = list(files_below(source, IMAGE_SUFFIXES))
    if not tables or not files:
        raise FileNotFoundError(f"{source} has no masks of Roboflow: {LOOKED_FOR}")
    if len({path.read_bytes() for path in tables}) > 1:
        raise ValueError(f"{', '.join(map(str, tables))} differ: expected the same classes in all splits")
    reader = MaskReader(read_class_file(tables[0]), config.background)
    masks = {file.with_suffix(""): file for file in files if file.suffix.lower() == ".png"}
    pairs, alone, taken = [], [], set()
    for file in files:
        mask = masks.get(file.with_name(file.stem + ENDING))
        if mask is not None:
            pairs.append((file, mask))
            taken.add(mask)
        else:
            alone.append(file)
    spare = [file for file in alone if file not in taken and file.stem.endswith(ENDING)]
    alone = [file for file in alone if file not in taken and file not in spare]
    problems, notes = Problems(), []
    if not pairs:
        raise FileNotFoundError(f"{source}: no image has a mask of its name with {ENDING}.png: {LOOKED_FOR}")
    if alone and not config.skip_bad:
        raise FileNotFoundError(
            f"{len(alone)} of {len(alone) + len(pairs)} images in {source} have no mask NAME{ENDING}.png, the first: "
            f"{alone[0]}. {HINT}"
        )
    for file in alone:
        problems.add_image("whose mask does not exist", str(source / file))
    if spare:
        notes.append(f"{len(spare)} mask(s) have no image and are left out: {', '.join(map(str, spare[:3]))}")
    samples = [_sample(source, image, mask) for image, mask in pairs]
    return Annotations(reader.labels, samples, reader, problems, notes)


def _sample(source: Path, image: PurePosixPath, mask: PurePosixPath) -> Sample:
    place = place_of(image.parent.parts)
    name = PurePosixPath(*place.rest, image.name)
    return Sample(source / image, place.split, name, str(source / mask), mask=source / mask)
