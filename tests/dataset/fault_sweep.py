"""Faults in the files of a data set, and how training handles them."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.dataset.conftest import chunk
from tests.pseudo_datasets import block_mask, textured_image, write_pseudo_dataset

SIZE, COUNT, CROP = (48, 64), 3, (40, 56)
IMAGE, MASK, LIST = "images/train_001.png", "masks/train_001.png", "train.txt"
Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Fault:
    """A way to spoil the second of three training samples, or the list."""

    spoil: Spoil  # changes the data set in a folder
    error: str | None = None  # pattern of the message; None: training works
    one_sample: bool = True  # whether another sample can replace it


def put(name: str, content: bytes | np.ndarray | Image.Image, **options) -> Spoil:
    def spoil(root: Path) -> None:
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
            picture.save(root / name, **options)

    return spoil


def change(name: str, new: Callable[[bytes], bytes]) -> Spoil:
    return lambda root: (root / name).write_bytes(new((root / name).read_bytes()))


def cut(name: str, part: float) -> Spoil:
    return change(name, lambda data: data[: int(len(data) * part)])


def relist(old: str, new: str, encoding: str = "utf-8") -> Spoil:
    return change(LIST, lambda data: data.decode().replace(old, new).encode(encoding))


def several(*spoils: Spoil) -> Spoil:
    return lambda root: [spoil(root) for spoil in spoils]


def jpeg(part: float, mode: str = "RGB") -> Spoil:
    other = "images/train_001.jpg"
    return several(put(other, PICTURE.convert(mode)), cut(other, part), relist(IMAGE, other))


def both(image_size: tuple[int, int], mask_size: tuple[int, int]) -> Spoil:
    mask = Image.fromarray(block_mask((8, 10), (0, 1, 2))).resize(mask_size[::-1], Image.Resampling.NEAREST)
    return several(put(IMAGE, textured_image(image_size)), put(MASK, mask))


def rename(image: str, mask: str, line: str, encoding: str = "utf-8") -> Spoil:
    def spoil(root: Path) -> None:
        for old, new in ((IMAGE, image), (MASK, mask)):
            (root / new).parent.mkdir(exist_ok=True)
            (root / old).rename(root / new)
        relist(f"{IMAGE} {MASK}", line, encoding)(root)

    return spoil


def replace_image(create: Callable[[Path, Path], object]) -> Spoil:
    def spoil(root: Path) -> None:
        (root / IMAGE).rename(root / "images/real.png")
        create(root / IMAGE, root)

    return spoil


PICTURE = Image.fromarray(textured_image(SIZE))
HUGE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0))
HUGE += chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
THOUSANDS = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE)
VOID = np.full(SIZE, 255, dtype=np.uint8)
UNREADABLE = r"the image .*train_001\.png cannot be read: "

FAULTS = {
    "image: truncated PNG": Fault(cut(IMAGE, 0.7), UNREADABLE),
    "image: PNG without its last bytes": Fault(cut(IMAGE, 0.99), UNREADABLE),
    "image: truncated JPEG": Fault(jpeg(0.7), r"the image .*train_001\.jpg cannot be read: "),
    "image: one broken byte": Fault(
        change(IMAGE, lambda data: data[:1500] + bytes([data[1500] ^ 255]) + data[1501:]), UNREADABLE
    ),
    "image: empty file": Fault(put(IMAGE, b""), UNREADABLE + "it is empty"),
    "image: a web page": Fault(put(IMAGE, b"<html>not found</html>"), UNREADABLE),
    "image: header of 2^60 pixels": Fault(put(IMAGE, HUGE), UNREADABLE),
    "image: 16 bits": Fault(put(IMAGE, THOUSANDS), r"train_001\.png has 16 bits per channel .* from 0 to 3071"),
    "image: palette": Fault(put(IMAGE, PICTURE.convert("P"))),
    "image: transparent palette": Fault(put(IMAGE, PICTURE.convert("P"), transparency=bytes(range(256)))),
    "image: RGBA": Fault(put(IMAGE, PICTURE.convert("RGBA"))),
    "image: grey": Fault(put(IMAGE, PICTURE.convert("L"))),
    "image: black and white": Fault(put(IMAGE, PICTURE.convert("1"))),
    "image: JPEG, CMYK": Fault(jpeg(1.0, "CMYK")),
    "image: missing": Fault(
        lambda root: (root / IMAGE).unlink(), r"(1 of 6 files are missing, first:\n  .*|.*)images/train_001\.png"
    ),
    "image: link to a file": Fault(replace_image(lambda path, root: path.symlink_to(root / "images/real.png"))),
    "image: link to itself": Fault(replace_image(lambda path, _: path.symlink_to(path)), r"images/train_001\.png"),
    "image: a folder of its name": Fault(replace_image(lambda path, _: path.mkdir()), r"images/train_001\.png"),
    "mask: truncated PNG": Fault(cut(MASK, 0.7), r"the mask .*train_001\.png cannot be read: "),
    "mask: empty file": Fault(put(MASK, b""), r"the mask .*train_001\.png cannot be read: it is empty"),
    "mask: illegal values": Fault(
        put(MASK, block_mask(SIZE, (0, 1, 7, 9))),
        r"masks/train_001\.png holds 2 value\(s\) that are no class: 7, 9 \(\d+ pixels\)\. Classes are 0-2",
    ),
    "mask: 16 bits, legal values": Fault(put(MASK, block_mask(SIZE, (0, 1, 2, 255)).astype(np.uint16))),
    "mask: 16 bits, thousands of values": Fault(
        put(MASK, THOUSANDS),
        r"train_001\.png holds 3068 value\(s\) that are no class: 3, 4, 5.*, \.\.\. \(3068 pixels\)",
    ),
    "mask: colours": Fault(put(MASK, PICTURE), r"train_001\.png holds \d+ colour\(s\) that are no class: .*nearest"),
    "mask: all ignored": Fault(put(MASK, VOID)),
    "mask: every mask all ignored": Fault(
        several(*(put(f"masks/train_00{i}.png", VOID) for i in range(COUNT))), "every pixel is void", one_sample=False
    ),
    "sizes: image and mask swapped": Fault(
        both(SIZE, SIZE[::-1]), r"images/train_001\.png is 48x64, mask .*masks/train_001\.png is 64x48"
    ),
    "sizes: smaller than the crop": Fault(both((20, 30), (20, 30))),
    "sizes: one row": Fault(both((1, 64), (1, 64))),
    "sizes: 1x1": Fault(both((1, 1), (1, 1))),
    "list: blank lines alone": Fault(put(LIST, b"\n \r\n"), r"train\.txt is empty", False),
    "list: Windows line ends, blank lines": Fault(
        several(relist("\n", "\r\n\r\n  \r\n"), change(LIST, lambda data: "\ufeff".encode() + data))
    ),
    "list: three words": Fault(relist(IMAGE, "a.png b.png"), r"line 2: expected .* got 3 words.*double quotes", False),
    "list: not UTF-8": Fault(
        rename("images/straße.png", MASK, f"images/straße.png {MASK}", "latin-1"), r"train\.txt is not UTF-8", False
    ),
    "paths: with spaces, quoted": Fault(rename("a b/a.png", "masks/a b.png", '"a b/a.png" "masks/a b.png"')),
    "paths: with spaces, tab and quotes": Fault(rename("a b/a.png", "masks/a b.png", 'a b/a.png\t"masks/a b.png"')),
    "paths: with spaces, bare": Fault(rename("my images/a b.png", "masks/a b.png", "my images/a b.png masks/a b.png")),
    "paths: beyond ASCII": Fault(rename("images/straße_道路.png", "masks/м.png", "images/straße_道路.png masks/м.png")),
}


def spoiled(case: str, root: Path) -> Path:
    write_pseudo_dataset("custom", root, SIZE, COUNT)
    FAULTS[case].spoil(root)
    return root
