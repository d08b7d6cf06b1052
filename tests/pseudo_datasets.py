"""Tiny data sets in the real folder layouts, for tests of the data floor and of the entry points.

Load it from a test with `from tests.pseudo_datasets import write_pseudo_dataset`.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {
    "citys": ("train", "val", "test"),
    "voc": ("train", "val"),
    "camvid": ("train", "val", "test"),
    "ade20k": ("train", "val"),
    "coco_stuff_164k": ("train", "val"),
    "custom": ("train", "val", "test"),
    "synthetic": ("train", "val", "test"),
}

# A few values that masks of the data set hold: classes and void.
MASK_VALUES = {
    "citys": (7, 8, 11, 0, 33),
    "voc": (0, 1, 20, 255),
    "camvid": (0, 3, 10, 11),
    "ade20k": (0, 1, 2, 150),
    "coco_stuff_164k": (0, 90, 181, 255),
    "custom": (0, 1, 2, 255),
    "synthetic": (0, 1, 2, 255),
}


def textured_image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth colour blobs, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, size[0] // 6), max(2, size[1] // 6), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def block_mask(size: tuple[int, int], values: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Rectangles of the given values, all of them present where there is room, uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(values, (4, 5)).astype(np.uint8)
    cells.flat[: len(values)] = values
    rows, columns = np.arange(size[0]) * 4 // size[0], np.arange(size[1]) * 5 // size[1]
    return cells[rows][:, columns]


def sample_paths(name: str, split: str, stem: str) -> tuple[str, str | None]:
    """Where the data set keeps the image and the mask of a sample, relative to its root."""
    if name == "citys":
        mask = None if split == "test" else f"gtFine/{split}/town/{stem}_gtFine_labelIds.png"
        return f"leftImg8bit/{split}/town/{stem}_leftImg8bit.png", mask
    if name == "voc":
        folder = "SegmentationClassAug" if split == "train" else "SegmentationClass"
        return f"JPEGImages/{stem}.jpg", f"{folder}/{stem}.png"
    if name == "camvid":
        return f"{split}/{stem}.png", f"{split}annot/{stem}.png"
    if name in ("ade20k", "coco_stuff_164k"):
        folder = {"train": "training", "val": "validation"}[split] if name == "ade20k" else f"{split}2017"
        return f"images/{folder}/{stem}.jpg", f"annotations/{folder}/{stem}.png"
    return f"images/{stem}.png", f"masks/{stem}.png"


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_mask(path: Path, mask: np.ndarray, palette: bool = False) -> None:
    """Writes a grey or a palette mask, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    if palette:
        picture = picture.convert("P")
        picture.putpalette([(37 * i) % 256 for i in range(768)])
        picture.frombytes(mask.tobytes())
    picture.save(path)


def write_pseudo_dataset(
    name: str, root: Path, size: tuple[int, int] = (32, 48), count: int = 1, seed: int = 0, sizes=()
) -> Path:
    """Writes `count` samples per split, of `size` or of `sizes` in turn, in the layout of `name`; returns its root."""
    root.mkdir(parents=True, exist_ok=True)
    sizes = sizes or [size]
    for number, split in enumerate(SPLITS[name]):
        lines = []
        for index in range(count):
            stem = f"{split}_{index:03d}"
            image, mask = sample_paths(name, split, stem)
            shape, sample_seed = sizes[index % len(sizes)], seed + 1000 * number + index
            write_image(root / image, textured_image(shape, sample_seed))
            if mask is not None:
                write_mask(root / mask, block_mask(shape, MASK_VALUES[name], sample_seed), palette=name == "voc")
            lines.append(stem if name == "voc" else f"{image} {mask}")
        listing = {"voc": f"ImageSets/Segmentation/{split}{'aug' * (split == 'train')}.txt"}.get(name, f"{split}.txt")
        if name in ("voc", "custom", "synthetic"):
            (root / listing).parent.mkdir(parents=True, exist_ok=True)
            (root / listing).write_text("\n".join(lines) + "\n")
    if name in ("custom", "synthetic"):
        (root / "classes.txt").write_text("road 128 64 128\ntraffic light\nsky 70 130 180\n")
    return root


def write_source(name, root, count=5, sizes=((32, 48), (41, 29), (7, 90))):
    """A pseudo data set whose samples differ in size."""
    return write_pseudo_dataset(name, root, count=count, sizes=sizes)


def assert_same_samples(first, second):
    assert len(first) == len(second) > 0
    for index in range(len(first)):
        for a, b in zip(first[index], second[index], strict=True):
            assert (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b))


def files_of(out):
    """When each file of a decoded cache's samples was written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/part-*")}
