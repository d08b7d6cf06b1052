"""Files on disk: compact path lists, list files, the check that every path exists, and decoding of images and masks."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dataset.reading.png import GREY, PALETTE, RGB, SIGNATURE, decode_png

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
NAMES_SHOWN = 5


class PathList(Sequence[str]):
    """An immutable list of paths in one block of memory.

    Reading a Python string writes its reference count, so that a list of 118,000 strings is copied page by page into
    every worker process; two arrays stay shared.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"path {index} of a list of {len(self)}")
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[str]:
    """Names of the image files in a folder, sorted, without hidden ones; FileNotFoundError if there is no folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    names = os.listdir(folder)
    return sorted(name for name in names if name.lower().endswith(tuple(suffixes)) and not name.startswith("."))


def missing_files(paths: Iterable[str]) -> list[str]:
    """Those of `paths` that are not files, in order. Each folder is listed once instead of a `stat` per file."""
    names_of: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names_of:
            try:
                with os.scandir(folder) as entries:  # DirEntry.is_file raises OSError for circular links
                    names_of[folder] = {
                        e.name for e in entries if (os.path.isfile(e) if e.is_symlink() else e.is_file())
                    }
            except OSError:
                names_of[folder] = set()
        if name not in names_of[folder]:
            missing.append(path)
    return missing


def read_text_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, stripped text) of the lines that are not blank; UTF-8, Unix or Windows line ends.

    Raises:
        ValueError, FileNotFoundError: it is not UTF-8 text, or is empty; it does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty: expected one line per image")
    return lines


def split_list_line(line: str, exists: Callable[[str], bool]) -> list[str]:
    """The one or two paths of a line of a list file.

    Paths with spaces are separated by a tab or set in double quotes. Without either, a line of more than two words is
    split at the one place where both sides are files.

    Args:
        line: stripped text.
        exists: whether a path of the line is that of a file.

    Raises:
        ValueError: the line is not one or two paths.
    """
    if "\t" in line:
        parts = [part.strip().strip('"') for part in line.split("\t") if part.strip()]
    elif '"' in line:
        parts = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^\s"]+)', line)]
    else:
        parts = line.split()
        if len(parts) > 2 or (len(parts) == 2 and "." not in os.path.basename(parts[0])):
            spaces = [match.span() for match in re.finditer(r"\s+", line)]
            cuts = [[line[:start], line[end:]] for start, end in spaces]
            fitting = [cut for cut in cuts if all(map(exists, cut))] + ([[line]] if exists(line) else [])
            parts = fitting[0] if len(fitting) == 1 else parts
    if not 1 <= len(parts) <= 2:
        raise ValueError(
            f"expected 'image mask' or 'image', got {len(parts)} words: {line!r}. "
            "Separate paths that hold spaces by a tab, or put them in double quotes"
        )
    return parts


def read_image(path: str, upright: bool = False) -> np.ndarray:
    """Decodes an image to RGB.

    Args:
        path: the file.
        upright: apply the orientation noted by cameras (EXIF). Masks do not have it, so images with masks are read as
            they are stored.

    Returns:
        uint8 array, (H, W, 3). Grey, palette, CMYK and transparent images are converted (transparency is dropped).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded to its end, or it has more than 8 bits per channel.
    """
    return read_image_top(path, None, upright)[0]


def read_image_top(path: str, rows: int | None, upright: bool = False) -> tuple[np.ndarray, tuple[int, int]]:
    """The first rows of an image and its (height, width); the other rows of common PNG files are not decoded."""
    if not upright and (decoded := _decode_common_png(path, (RGB,), rows)) is not None:
        return decoded
    image, _ = _decode(path, "image", upright)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"image {path} has more than 8 bits per pixel (mode {image.mode}): expected 8 bits per channel; convert it"
        )
    if image.mode == "P":
        image = image.convert("RGBA")  # through RGBA: Pillow warns about transparent palettes otherwise
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return pixels[:rows], pixels.shape[:2]


def read_mask(path: str) -> np.ndarray:
    """Decodes a mask as it is stored: palette images give their indices, 16-bit images their values.

    Returns:
        (H, W): uint8, or a wider integer type where the file is wider.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded to its end, or it is a colour image.
    """
    if (decoded := _decode_common_png(path, (GREY, PALETTE))) is not None:
        return decoded[0]
    mask, raw_mode = _decode(path, "mask")
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    if mask.mode not in ("L", "P") and not mask.mode.startswith("I"):
        raise ValueError(
            f"mask {path} has the colour mode {mask.mode}: expected one channel with class numbers (grey or palette)"
        )
    values = np.asarray(mask)
    # Grey PNG of 2 or 4 bits are stretched to 0..255 on decoding; what is stored are the class numbers.
    stretch = {"L;2": 85, "L;4": 17}.get(raw_mode)
    return values // stretch if stretch else values


def _decode_common_png(
    path: str, colour_types: tuple[int, ...], rows: int | None = None
) -> tuple[np.ndarray, tuple[int, int]] | None:
    """As `decode_png`; None also for a missing file and other formats, which `_decode` handles."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(SIGNATURE))
            return decode_png(start + file.read(), colour_types, rows) if start == SIGNATURE else None
    except OSError:
        return None


def _decode(path: str, kind: str, upright: bool = False) -> tuple[Image.Image, str]:
    """The image, fully decoded, and the raw mode of its pixels in the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                raw_mode = image.tile[0][3] if image.tile else ""
                image.load()
                if upright:
                    image = ImageOps.exif_transpose(image)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error and others for bad files
        reason = "it is empty" if os.path.isfile(path) and not os.path.getsize(path) else error
        raise ValueError(f"the {kind} {path} cannot be read: {reason}") from error
    return image, raw_mode if isinstance(raw_mode, str) else (raw_mode or [""])[0]
