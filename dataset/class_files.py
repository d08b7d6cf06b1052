"""Files that name classes, with their colours and mask values: classes.txt, and those that annotation tools write.

`read_class_file` reads all of them into the same `ClassTable`:

    classes.txt         name | name r g b | name = 7 8 9 | name r g b = 255 | void = 0 255 | void r g b = 255
    label_colors.txt    r g b name                  (CamVid)
    labelmap.txt        name:r,g,b:parts:actions    (CVAT)
    class_dict.csv      name,r,g,b                  (CamVid on Kaggle, DeepGlobe)
    _classes.csv        Pixel Value, Class          (Roboflow)
"""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from dataset.classes import ClassTable
from dataset.reading.files import read_text_lines

CLASSES_FILE = "classes.txt"
VOID_NAMES = {"void", "unlabelled", "unlabeled", "ignore", "ignored"}  # of entries in files of other tools
_VALUES = re.compile(r"(?P<name>.*?)\s*=\s*(?P<values>\d+([\s,]+\d+)*)")


def _classes_txt(path: Path) -> Iterator[tuple[int, tuple]]:
    for number, line in read_text_lines(path):
        match = _VALUES.fullmatch(line)
        name, values = (match["name"], [int(v) for v in re.findall(r"\d+", match["values"])]) if match else (line, None)
        words, color = name.split(), None
        if len(words) > 3 and all(word.isdigit() for word in words[-3:]):  # "traffic light 250 170 30"
            name, color = " ".join(words[:-3]), tuple(map(int, words[-3:]))
        # Without colour and "=" a class may be called void: its line is counted.
        yield number, (name, color, values, name.lower() == "void" and (color or values) is not None)


def _label_colors(path: Path) -> Iterator[tuple[int, tuple]]:
    for number, line in read_text_lines(path):
        words = line.split(maxsplit=3)
        if len(words) != 4 or not all(word.isdigit() for word in words[:3]):
            raise ValueError(f"{path}, line {number}: expected 'r g b name', got {line!r}")
        yield number, (words[3], tuple(map(int, words[:3])), None, words[3].lower() in VOID_NAMES)


def _labelmap(path: Path) -> Iterator[tuple[int, tuple]]:
    for number, line in read_text_lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        color = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", rest.split(":")[0])
        if color is None:
            raise ValueError(f"{path}, line {number}: expected 'name:r,g,b:parts:actions', got {line!r}")
        yield number, (name, tuple(map(int, color.groups())), None, name.lower() in VOID_NAMES)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a CSV file, its header left out."""
    rows = csv.reader([line for _, line in read_text_lines(path)])
    for number, row in enumerate(rows, 1):
        if number > 1:
            yield number, [cell.strip() for cell in row]


def _class_dict(path: Path) -> Iterator[tuple[int, tuple]]:
    for number, cells in _rows(path):
        if len(cells) != 4 or not all(cell.isdigit() for cell in cells[1:]):
            raise ValueError(f"{path}, line {number}: expected 'name,r,g,b', got {','.join(cells)!r}")
        yield number, (cells[0], tuple(map(int, cells[1:])), None, cells[0].lower() in VOID_NAMES)


def _roboflow(path: Path) -> Iterator[tuple[int, tuple]]:
    for number, cells in _rows(path):
        if len(cells) != 2 or not cells[0].isdigit():
            raise ValueError(f"{path}, line {number}: expected 'pixel value, class', got {','.join(cells)!r}")
        yield number, (cells[1], None, [int(cells[0])], cells[1].lower() in VOID_NAMES)


FORMATS: dict[str, Callable[[Path], Iterator[tuple[int, tuple]]]] = {
    CLASSES_FILE: _classes_txt,
    "label_colors.txt": _label_colors,
    "labelmap.txt": _labelmap,
    "class_dict.csv": _class_dict,
    "_classes.csv": _roboflow,
}

FORMATS_OF_COLORS = ("label_colors.txt", "labelmap.txt", "class_dict.csv")  # whose masks hold colours alone


def find_class_file(root: Path) -> Path:
    """The file of classes in a data set's folder, or one that every split has a copy of.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the copies differ.
    """
    for name in FORMATS:
        if (root / name).is_file():
            return root / name
    for name in FORMATS:
        if found := sorted(root.glob(f"*/{name}")):
            if len({path.read_bytes() for path in found}) > 1:
                raise ValueError(f"{', '.join(map(str, found))} differ: expected one {name} in {root}")
            return found[0]
    raise FileNotFoundError(
        f"the file {root / CLASSES_FILE} does not exist, with a class a line; nor do {', '.join([*FORMATS][1:])}"
    )


def read_class_file(path: Path) -> ClassTable:
    """The classes of one of `FORMATS`; any other name is read as classes.txt.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty or not text, or a line is not what the format has; values are given for some classes
            and not for others; names the line.
    """
    table, bare_void = ClassTable(), None
    for number, (name, color, values, void) in FORMATS.get(path.name, _classes_txt)(path):
        if bare_void and not void and path.name not in FORMATS_OF_COLORS:
            raise ValueError(
                f"{path}, line {bare_void}: is {name!r} on line {number} class {len(table.names)}, or "
                f'{len(table.names) + 1}? Put the line of void last, or give it its value, such as "void r g b = 255"'
            )
        bare_void = number if void and values is None else bare_void
        try:
            table.add(name, color, values, void=void)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not table.names:
        raise ValueError(f"{path} names no class")
    without = [name for name, values in zip(table.names, table.values, strict=True) if not values]
    if 0 < len(without) < len(table.names):
        raise ValueError(
            f"{path} gives no mask value to {', '.join(map(repr, without[:5]))}, and some to other classes: expected "
            f'"name = value" for all of them or for none'
        )
    if table.void_colors and not any(table.colors):
        raise ValueError(f"{path} gives void a colour and no class one")
    return table
