"""Sources whose label maps are pictures already."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.classes import ClassTable
from dataset.config import ReadingConfig
from dataset.convert.annotations import Painted, Sample
from dataset.convert.labels import Labels, make_labels
from dataset.convert.problems import BadImage, Problems
from dataset.convert.shapes import Size
from dataset.labels import VOID, LabelMap
from dataset.reading.images import read_mask

BACKGROUNDS = ("background",)  # entries of these tools' class files that mean that nobody drew there


class MaskReader:
    """Reads the masks of a source as the label maps of the conversion.

    Attributes:
        labels: the classes.
    """

    def __init__(self, table: ClassTable, background: str | None) -> None:
        """Takes the classes of a file, and the name of the class for what nobody drew, or None."""
        entries = list(zip(table.names, table.colors, strict=True))
        self.labels: Labels = make_labels(entries, background, BACKGROUNDS)
        self._map: LabelMap = table.label_map(ReadingConfig())
        self._ids = np.full(256, VOID, dtype=np.uint8)
        self._ids[: len(table.names)] = [self.labels.id_of(name) for name in table.names]

    def __call__(self, sample: Sample, size: Size) -> Painted:
        """The label map of an image; BadImage where its mask cannot be used."""
        path = str(sample.mask)
        try:
            labels = self._ids[self._map.train_ids(_pixels(path, bool(self._map.colors)), path)]
        except FileNotFoundError as error:
            raise BadImage("whose mask does not exist", f"the mask {path} does not exist") from error
        except ValueError as error:
            raise BadImage("whose mask cannot be read", str(error)) from error
        return Painted(labels, Counter(), Problems())


def _pixels(path: str, colored: bool) -> np.ndarray:
    """A mask as `read_mask` gives it; where classes have colours, those of a palette and not its indices."""
    if colored and Path(path).is_file():
        try:
            with Image.open(path) as picture:
                if picture.mode == "P":
                    return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError):
            pass  # `read_mask` says what is wrong
    return read_mask(path)
