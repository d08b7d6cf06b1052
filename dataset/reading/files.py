"""Files on disk: compact path lists, list files, and the check that every path exists."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

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


def facts_of_files(paths: Iterable[str]) -> tuple[int, int]:
    """(size in bytes together, time of the last change in seconds) of the files of a sample; 0 for a missing one."""
    stats = []
    for path in paths:
        with suppress(FileNotFoundError):
            stats.append(os.stat(path))
    return sum(stat.st_size for stat in stats), max((int(stat.st_mtime) for stat in stats), default=0)


def read_text_lines(path: Path, expected: str = "one line per image") -> list[tuple[int, str]]:
    """(line number, stripped text) of the lines that are not blank; UTF-8, Unix or Windows line ends.

    Args:
        path: of the file.
        expected: what it should hold, for the message where it is empty.

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
        raise ValueError(f"{path} is empty: expected {expected}")
    return lines


def split_list_line(line: str, exists: Callable[[str], bool]) -> list[str]:
    """The one or two paths of a line of a list file.

    Paths with spaces are separated by a tab or set in double quotes; a comma between files separates them too. Else a
    line of more than two words is split at the one place where both sides are files.

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
    elif "," in line and all(map(exists, parts := [part.strip() for part in line.split(",")])):
        pass
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
