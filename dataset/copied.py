"""The samples of a prepared copy as a data set wants them: named as in the source, relabelled, picked by a list."""

import os
from pathlib import Path

import cv2
import numpy as np

from dataset.prepared import PreparedCopy
from dataset.reading.files import PathList

ILLEGAL = 254  # what label tables give for values that a mask must not hold


class CopiedSamples:
    """Samples of one split of a prepared copy.

    Attributes:
        folder: the copy.
        root: root of the data set that was copied; paths stay those below it, whether it still exists or not.
        classes, palette: of the data set.
    """

    def __init__(self, folder: Path, name: str, split: str) -> None:
        """Opens the copy; see `PreparedCopy` for the errors."""
        self._copy = PreparedCopy(folder, name, split)
        self.folder, self.root = folder, self._copy.source_root
        self.classes, self.palette = list(self._copy.classes), list(self._copy.palette)
        self._places = np.arange(len(self._copy))
        self._with_masks = self._copy.table.masks is not None
        self._translation: np.ndarray | None = None

    @property
    def known(self) -> dict[str, int]:
        """Sample to which each file of the source belongs, by normal path; made once, and gone after `choose`."""
        if not hasattr(self, "_known"):
            table = self._copy.table
            names = [*enumerate(table.images), *enumerate(table.masks or [])]
            self._known = {os.path.normpath(self._path(name)): index for index, name in names}
        return self._known

    def relabel(self, wanted: np.ndarray) -> None:
        """Sets the label map, uint8 (256,), that masks are to have been read with (another --ignore-label, say).

        Raises:
            ValueError: the copy was made with a map that cannot be turned into this one.
        """
        made_with = self._copy.label_table
        translation = np.zeros(256, dtype=np.uint8)
        translation[made_with] = wanted
        # What was illegal cannot be in the copy, whatever it would mean now.
        legal = made_with != ILLEGAL
        if (translation[made_with] != wanted)[legal].any() or (wanted[legal] == ILLEGAL).any():
            values = np.flatnonzero(legal & ((translation[made_with] != wanted) | (wanted == ILLEGAL)))
            raise ValueError(
                f"the prepared copy {self.folder} was made with another label map (another --ignore-label?): mask "
                f"value(s) {', '.join(map(str, values[:10]))} cannot be told apart in it. "
                "Give the same --ignore-label, or prepare another copy"
            )
        kept = np.unique(made_with[legal])
        self._translation = None if (translation[kept] == kept).all() else translation

    def choose(self, pairs: list[tuple[str, str | None]], list_file: str) -> None:
        """Keeps the samples of these absolute paths, in this order; `list_file` is for messages.

        Raises:
            ValueError: the copy does not have one of them.
        """
        places = []
        for image, mask in pairs:
            place = self.known.get(os.path.normpath(image))
            if place is None or (mask is not None and self.known.get(os.path.normpath(mask)) != place):
                raise ValueError(
                    f"{list_file} names {image if mask is None else f'{image} with {mask}'}, which split "
                    f"{self._copy.split} of the prepared copy {self.folder} does not have; use this list with the "
                    f"source: --data {self.root}"
                )
            places.append(place)
        self._places, self._with_masks = np.array(places), pairs[0][1] is not None
        del self._known

    def paths(self) -> tuple[PathList, PathList | None]:
        """The source's image files and mask files."""
        images, masks = self._copy.table.images, self._copy.table.masks
        of_images = PathList(self._path(images[place]) for place in self._places)
        return of_images, PathList(self._path(masks[place]) for place in self._places) if self._with_masks else None

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A sample in memory, its checksum compared.

        Raises:
            ValueError: the sample is damaged.
        """
        return self._relabelled(*self._copy.read(int(self._places[index])))

    def view(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A sample that is read where it is looked at."""
        return self._relabelled(*self._copy.view(int(self._places[index])))

    def check_labels(self, index: int, labels: np.ndarray) -> None:
        """Looks at a part of a sample's train ids, uint8 (h, w), padded or not: views compare no checksum.

        Raises:
            ValueError: they hold another value than a class or void, which a loss would trip over.
        """
        if (labels + np.uint8(1) > len(self.classes)).any():  # void, 255, becomes 0
            raise self._copy.damage(int(self._places[index]), "it holds a label that is no class")

    def _relabelled(self, image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        if not self._with_masks or mask is None:
            return image, None
        return image, mask if self._translation is None else cv2.LUT(mask, self._translation).reshape(mask.shape)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)  # a name that is absolute stays what it is
