"""Small sources for the converters, and their label maps written as text."""

from pathlib import Path

import numpy as np
from PIL import Image

from dataset.convert.command import convert
from dataset.convert.config import ConvertConfig
from dataset.custom import Custom
from tests.pseudo_datasets import textured_image

HEIGHT, WIDTH = 6, 8


def write_picture(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), orientation: int = 1) -> None:
    """Writes an image of (height, width) as it is stored, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    format = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(textured_image(size)).save(path, format=format, **({"exif": exif} if orientation != 1 else {}))


def grid(text: str) -> np.ndarray:
    """A label map of lines of digits, with "." for void, uint8 (H, W)."""
    rows = [[255 if letter == "." else int(letter) for letter in line.strip()] for line in text.split()]
    return np.array(rows, dtype=np.uint8)


def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """The corners of a box, x, y, x, y, ..."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def pairs(points: list[float]) -> list[list[float]]:
    """[x, y, ...] as [[x, y], ...]."""
    return np.reshape(points, (-1, 2)).tolist()


def converted(name: str, source: Path, out: Path | None = None, **settings) -> tuple[dict, dict[str, np.ndarray]]:
    """The report of a conversion and "split/name" -> label map, as the data set is read back for training."""
    out = out or source.parent / f"{source.name}_converted"
    report = convert(name, source, out, ConvertConfig(**settings), workers=0)
    found = {}
    for split in report["splits"]:
        data = Custom(out, split)
        assert list(data.classes) == [entry["name"] for entry in report["classes"]]
        for index, path in enumerate(data.image_paths):
            image, labels = data[index]
            name = Path(path).relative_to(out / "images").as_posix()
            found[f"{split}: {name}"] = labels
            assert labels is None or image.shape[:2] == labels.shape
    return report, found


def assert_labels(found: dict[str, np.ndarray], expected: dict[str, str]) -> None:
    """Compares label maps with those written as text."""
    assert list(found) == list(expected)
    for name, text in expected.items():
        np.testing.assert_array_equal(found[name], grid(text), err_msg=name)
