"""Faults in the files of a data set, and how training handles them."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pseudo_datasets import block_mask, textured_image, write_pseudo_dataset

REPOSITORY = Path(__file__).parents[2]
SIZE, COUNT, CROP = (48, 64), 3, (40, 56)
IMAGE, MASK, LIST = "images/train_001.png", "masks/train_001.png", "train.txt"
LINE = f"{IMAGE} {MASK}"


@dataclass(frozen=True)
class Fault:
    """A way to spoil the second of three training samples, or the list.

    Attributes:
        spoil: changes the data set in this folder.
        error: pattern of the message; None: training works.
        one_sample: whether another sample can take the place.
    """

    spoil: Callable[[Path], object]
    error: str | None = None
    one_sample: bool = True


def cut(name: str, part: float) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(
        (root / name).read_bytes()[: int(len((root / name).read_bytes()) * part)]
    )


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


def picture(mode: str) -> Callable[[Path], object]:
    return lambda root: Image.fromarray(textured_image(SIZE)).convert(mode).save(root / IMAGE)


def values(array: np.ndarray) -> Callable[[Path], object]:
    return lambda root: Image.fromarray(array).save(root / MASK)


def mask(*legal: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return block_mask(size, legal)


def both(image_size: tuple[int, int], mask_size: tuple[int, int]) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        Image.fromarray(textured_image(image_size)).save(root / IMAGE)
        Image.fromarray(block_mask((8, 10), (0, 1, 2))).resize(mask_size[::-1], Image.Resampling.NEAREST).save(
            root / MASK
        )

    return spoil


def jpeg(part: float) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        other = "images/train_001.jpg"
        Image.fromarray(textured_image(SIZE)).save(root / other)
        cut(other, part)(root)
        relist(lambda text: text.replace(IMAGE, other))(root)

    return spoil


def relist(change: Callable[[str], str], encoding: str = "utf-8") -> Callable[[Path], object]:
    return lambda root: (root / LIST).write_bytes(change((root / LIST).read_text()).encode(encoding))


def rename(image: str, mask_name: str, line: str, encoding: str = "utf-8") -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        for old, new in ((IMAGE, image), (MASK, mask_name)):
            (root / new).parent.mkdir(exist_ok=True)
            (root / old).rename(root / new)
        relist(lambda text: text.replace(LINE, line), encoding)(root)

    return spoil


def link(target: str, keep: bool) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        if keep:
            (root / IMAGE).rename(root / target)
        else:
            (root / IMAGE).unlink()
        (root / IMAGE).symlink_to(root / target)

    return spoil


def folder_instead(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).mkdir()


def all_masks_void(root: Path) -> None:
    for path in (root / "masks").glob("train_*.png"):
        Image.fromarray(np.full(SIZE, 255, dtype=np.uint8)).save(path)


def broken_byte(root: Path) -> None:
    data = bytearray((root / IMAGE).read_bytes())
    data[len(data) // 2] ^= 255
    (root / IMAGE).write_bytes(data)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


HUGE = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0))
HUGE += _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")
THOUSANDS = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE)
UNREADABLE = r"the image .*train_001\.png cannot be read: "

FAULTS = {
    "image: truncated PNG": Fault(cut(IMAGE, 0.7), UNREADABLE),
    "image: PNG without its last bytes": Fault(cut(IMAGE, 0.99), UNREADABLE),
    "image: truncated JPEG": Fault(jpeg(0.7), r"the image .*train_001\.jpg cannot be read: "),
    "image: one broken byte": Fault(broken_byte, UNREADABLE),
    "image: empty file": Fault(content(IMAGE, b""), UNREADABLE + "it is empty"),
    "image: a web page": Fault(content(IMAGE, b"<html>not found</html>"), UNREADABLE),
    "image: header of 2^60 pixels": Fault(content(IMAGE, HUGE), UNREADABLE),
    "image: 16 bits": Fault(
        lambda root: Image.fromarray(THOUSANDS).save(root / IMAGE), r"train_001\.png has more than 8 bits per pixel"
    ),
    "image: palette": Fault(picture("P")),
    "image: RGBA": Fault(picture("RGBA")),
    "image: grey": Fault(picture("L")),
    "image: grey with alpha": Fault(picture("LA")),
    "image: black and white": Fault(picture("1")),
    "image: JPEG, whole": Fault(jpeg(1.0)),
    "image: missing": Fault(
        lambda root: (root / IMAGE).unlink(), r"(1 of 6 files are missing, first:\n  .*|.*)images/train_001\.png"
    ),
    "image: link to a file": Fault(link("images/real.png", True)),
    "image: link to nothing": Fault(link("images/none.png", False), r"images/train_001\.png"),
    "image: link to itself": Fault(link(IMAGE, False), r"images/train_001\.png"),
    "image: a folder of its name": Fault(folder_instead, r"images/train_001\.png"),
    "mask: truncated PNG": Fault(cut(MASK, 0.7), r"the mask .*train_001\.png cannot be read: "),
    "mask: empty file": Fault(content(MASK, b""), r"the mask .*train_001\.png cannot be read: it is empty"),
    "mask: illegal values": Fault(
        values(mask(0, 1, 7, 9)), r"masks/train_001\.png holds 2 illegal value\(s\): 7, 9 \(\d+ pixels\)\. Legal for"
    ),
    "mask: 16 bits, legal values": Fault(values(mask(0, 1, 2, 255).astype(np.uint16))),
    "mask: 16 bits, thousands of values": Fault(
        values(THOUSANDS), r"masks/train_001\.png holds 3068 illegal value\(s\): 3, 4, 5"
    ),
    "mask: colours": Fault(values(textured_image(SIZE)), r"masks/train_001\.png has the colour mode RGB: expected one"),
    "mask: palette": Fault(lambda root: Image.fromarray(mask(0, 1, 2)).convert("P").save(root / MASK)),
    "mask: all ignored": Fault(values(np.full(SIZE, 255, dtype=np.uint8))),
    "mask: every mask all ignored": Fault(all_masks_void),
    "sizes: image and mask swapped": Fault(
        both(SIZE, SIZE[::-1]), r"images/train_001\.png is 48x64, mask .*masks/train_001\.png is 64x48"
    ),
    "sizes: smaller than the crop": Fault(both((20, 30), (20, 30))),
    "sizes: one row": Fault(both((1, 64), (1, 64))),
    "sizes: 1x1": Fault(both((1, 1), (1, 1))),
    "list: zero bytes": Fault(content(LIST, b""), r"train\.txt is empty", False),
    "list: blank lines alone": Fault(content(LIST, b"\n \r\n"), r"train\.txt is empty", False),
    "list: Windows line ends, blank lines": Fault(relist(lambda text: "\ufeff" + text.replace("\n", "\r\n\r\n  \r\n"))),
    "list: a line without a mask": Fault(
        relist(lambda text: text.replace(" " + MASK, "")), r"train\.txt, line 2: no mask for", False
    ),
    "list: not UTF-8": Fault(
        rename("images/straße.png", MASK, f"images/straße.png {MASK}", "latin-1"), r"train\.txt is not UTF-8", False
    ),
    "paths: with spaces, quoted": Fault(rename("a b/a.png", "masks/a b.png", '"a b/a.png" "masks/a b.png"')),
    "paths: with spaces, bare": Fault(rename("my images/a b.png", "masks/a b.png", "my images/a b.png masks/a b.png")),
    "paths: beyond ASCII": Fault(rename("images/straße_道路.png", "masks/м.png", "images/straße_道路.png masks/м.png")),
}  # fmt: skip


def spoiled(case: str, root: Path, count: int = COUNT) -> Path:
    """Writes a small data set with this fault."""
    write_pseudo_dataset("custom", root, SIZE, count)
    FAULTS[case].spoil(root)
    return root


def train(root: Path, *words: object) -> subprocess.CompletedProcess:
    """Two iterations of a tiny network; `stdout` holds all output."""
    command = [sys.executable, "train_baseline.py", "--dataset", "custom", "--data", root, "--save-dir", root / "runs"]
    command += ["--device", "cpu", "--skip-val", "--model", "psp_mobile", "--backbone", "mobilenetv3_small"]
    command += ["--crop-size", *CROP, "--batch-size", 2, "--max-iterations", 2, "--log-iter", 1, "--workers", 1, *words]
    return subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
