"""Any folder with list files and a file of class names."""

from functools import cached_property

from dataset.base import Pair, SegmentationDataset
from dataset.class_files import find_class_file, read_class_file
from dataset.classes import ClassTable
from dataset.folders import LAYOUTS, Found, find_pairs, held_out


class Custom(SegmentationDataset):
    """A user's own data set; mask values are the line numbers of classes.txt, from 0, and 255 is void."""

    NAME = "custom"
    SPLITS = ("train", "val", "test")
    LAYOUT = (
        """\
  ROOT/classes.txt          one class per line: "name", "name r g b" with its colour, "name = 7 8" with its mask values;
                            or label_colors.txt, labelmap.txt, class_dict.csv, _classes.csv
  ROOT/{train,val}.txt      one "image mask" pair per line, relative to ROOT or absolute; paths with spaces
                            separated by a tab or in double quotes
  ROOT/test.txt             optional; masks may be left out
"""
        + LAYOUTS
    )

    def splits(self) -> tuple[str, ...]:
        if self._has_lists():
            return self.SPLITS if (self.root / "test.txt").is_file() else self.SPLITS[:2]
        return tuple(dict.fromkeys(("train", "val", *self._found.pairs)))

    def pairs(self) -> list[Pair]:
        if self._has_lists():
            found = {s: self.root / f"{s}.txt" for s in self.SPLITS if (self.root / f"{s}.txt").is_file()}
            read = self.read_list
        else:
            found, read = self._found.pairs, list
            self.notes = self._found.notes
        if self.split == "test" or ("val" in found and not self.reading.val_fraction):
            return read(found.get(self.split, self.root / f"{self.split}.txt"))
        if "val" in found:
            raise ValueError(
                f"--val-fraction {self.reading.val_fraction}: {self.root} has a validation split of its own"
            )
        if "train" not in found:
            raise FileNotFoundError(f"{self.root} has no training split; it has {', '.join(found)}")
        pairs = read(found["train"])
        if not self.reading.val_fraction:
            if self.split == "train":
                return pairs
            raise FileNotFoundError(
                f"there is no validation split: {self.root / 'val.txt'} does not exist, nor a folder of that kind. "
                f"--val-fraction 0.1 takes a tenth of the {len(pairs)} training images for it"
            )
        chosen = held_out(pairs, self.reading.val_fraction)
        return [pair for pair, validates in zip(pairs, chosen, strict=True) if validates == (self.split == "val")]

    def _has_lists(self) -> bool:
        return any((self.root / f"{split}.txt").is_file() for split in self.SPLITS)

    @cached_property
    def _found(self) -> Found:
        return find_pairs(self.root)

    def read_classes(self) -> ClassTable:
        return read_class_file(find_class_file(self.root))


class Synthetic(Custom):
    """The scenes that `dataset.synthetic` writes, in the same layout."""

    NAME = "synthetic"
    LAYOUT = Custom.LAYOUT + "\nwrite it with: python -m dataset.synthetic --root ROOT"
