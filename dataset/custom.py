"""Any folder with list files and a file of class names."""

from pathlib import Path

from dataset.base import Pair, SegmentationDataset
from dataset.reading.files import read_text_lines
from utils.visualize import generated_palette

CLASSES_FILE = "classes.txt"


class Custom(SegmentationDataset):
    """A user's own data set; mask values are the line numbers of classes.txt, from 0, and 255 is void."""

    NAME = "custom"
    SPLITS = ("train", "val", "test")
    LAYOUT = """\
  ROOT/classes.txt          one class per line: a name, or a name and its colour "name r g b"
  ROOT/{train,val}.txt      one "image mask" pair per line, relative to ROOT or absolute; paths with spaces
                            separated by a tab or in double quotes
  ROOT/test.txt             optional; masks may be left out"""

    def splits(self) -> tuple[str, ...]:
        return self.SPLITS if (self.root / "test.txt").is_file() else self.SPLITS[:2]

    def pairs(self) -> list[Pair]:
        return self.read_list(self.root / f"{self.split}.txt")

    def read_classes(self) -> tuple[list[str], list[tuple[int, int, int]]]:
        return read_classes_file(self.root / CLASSES_FILE)


class Synthetic(Custom):
    """The scenes that `dataset.synthetic` writes, in the same layout."""

    NAME = "synthetic"
    LAYOUT = Custom.LAYOUT + "\nwrite it with: python -m dataset.synthetic --root ROOT"


def read_classes_file(path: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Names and colours of the classes; a line without a colour gets a fixed generated one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty or not text, a name occurs twice, or a colour is invalid.
    """
    colours: dict[str, tuple[int, int, int] | None] = {}
    for number, line in read_text_lines(path):
        name, colour, words = line, None, line.split()
        if len(words) > 3 and all(word.isdigit() for word in words[-3:]):  # "traffic light 250 170 30"
            name, colour = " ".join(words[:-3]), tuple(map(int, words[-3:]))
        if colour and max(colour) > 255:
            raise ValueError(f"{path}, line {number}: colour {colour} has a value above 255")
        if name in colours:
            raise ValueError(f"{path}, line {number}: the class {name!r} occurs twice")
        colours[name] = colour
    generated = generated_palette(len(colours))
    return list(colours), [tuple(own or other) for own, other in zip(colours.values(), generated, strict=True)]
