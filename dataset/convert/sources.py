"""Finding the files of a source: annotations, images, splits."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dataset.convert.annotations import HINT
from dataset.convert.problems import Problems
from dataset.folders import SPLIT_NAMES, Place, read_place
from dataset.reading.files import IMAGE_SUFFIXES

SHOWN = 3


def files_below(root: Path, suffixes: Sequence[str]) -> Iterator[PurePosixPath]:
    """Paths, relative to the folder and sorted, of the files with these endings, in any case; hidden ones left out."""
    found, seen = [], set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:  # a link to a folder that was walked already, perhaps one above it
            continue
        seen.add(real)
        below = PurePosixPath(Path(place).relative_to(root).as_posix())
        found += [below / name for name in files if name.lower().endswith(tuple(suffixes)) and not name.startswith(".")]
    yield from sorted(found)


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError where it is none."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file, or a damaged one: {error}") from error


def read_size(entry: Mapping[str, Any], height: str = "height", width: str = "width") -> tuple[int, int] | None:
    """The (height, width) that an entry of an annotation file gives, or None."""
    try:
        size = int(entry.get(height)), int(entry.get(width))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def place_of(parts: Sequence[str]) -> Place:
    """`dataset.folders.read_place` that knows folders with years, such as train2017, too."""
    years = [re.fullmatch(r"([a-z]+)[_-]?\d{4}", part.lower()) for part in parts]
    return read_place([y[1] if y and y[1] in SPLIT_NAMES else part for y, part in zip(years, parts, strict=True)])


def split_of(path: PurePosixPath) -> str:
    """The split that the folders of an annotation file say, or else the words in its name; "" where neither does.

    `valid/_annotations.coco.json` is of val and so is `annotations/instances_val2017.json`.
    """
    words = re.findall(r"[a-z]+", path.stem.lower())
    return place_of(path.parent.parts).split or next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


class Images:
    """The image files of a source, to find those that annotations name.

    Attributes:
        problems: images that were not found, and left out.
    """

    def __init__(self, root: Path, skip_bad: bool) -> None:
        """Lists the images below `root`; `skip_bad` leaves those that are not found out, else they are errors."""
        self.root, self.skip_bad, self.problems = root, skip_bad, Problems()
        found = files_below(root, IMAGE_SUFFIXES)
        self.files = [file for file in found if not _holds_masks(file.parent)]
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in self.files:
            self._by_name[file.name.lower()].append(file)
            self._by_stem[file.stem.lower()].append(file)
        self._taken: set[Path] = set()
        self._missing: list[str] = []
        self._asked = 0

    def find(
        self, name: str, source: str, folders: Iterable[Path], split: str = "", any_suffix: bool = False
    ) -> Path | None:
        """The image of this name, or None, which `close` reports.

        First the name is looked for in the folders, then anywhere in the source: of files with that name those that
        share most folders with it, and among several those in one of the folders, or of the split.

        Args:
            name: path as annotations give it, with any folders and separators.
            source: the annotations' file, for messages.
            folders: that the name may be relative to.
            split: of the annotations.
            any_suffix: a file with another ending is taken too.

        Raises:
            ValueError: several files could be meant, and that is not to be skipped.
        """
        self._asked += 1
        folders = list(folders)
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for folder in folders if parts else ():
            if (path := folder.joinpath(*parts)).is_file() and path.name.lower().endswith(IMAGE_SUFFIXES):
                path = Path(os.path.normpath(path))
                self._taken.add(path)
                return path
        last = parts[-1].lower() if parts else ""
        found = self._by_name.get(last) or (self._by_stem.get(PurePosixPath(last).stem) if any_suffix else None) or []
        shared = [_shared(file.parent.parts, parts[:-1]) for file in found]
        found = [file for file, count in zip(found, shared, strict=True) if count == max(shared)]
        found = [file for file in found if self.root / file.parent in folders] or found
        found = [file for file in found if split and place_of(file.parent.parts).split == split] or found
        if len(found) == 1:
            self._taken.add(self.root / found[0])
            return self.root / found[0]
        if not found:
            self._missing.append(name)
        elif not self.skip_bad:
            raise ValueError(f"{source}: the image {name!r} could be any of {_listed(found)}. {HINT}")
        else:
            self.problems.add_image("of whose name there are several", f"{source}, {name}")
        return None

    def knows(self, stem: str) -> bool:
        """Whether there is an image of this name, with any ending."""
        return stem.lower() in self._by_stem

    def place(self, path: Path, split: str) -> tuple[str, PurePosixPath]:
        """(split, name among the images of its split) of an image; its folders say the split where "" is given."""
        try:
            below = PurePosixPath(path.relative_to(self.root).as_posix())
        except ValueError:  # outside the source
            return split, PurePosixPath(path.name)
        place = place_of(below.parent.parts)
        return split or place.split, PurePosixPath(*place.rest, below.name)

    def close(self, source: str) -> None:
        """Reports the names without a file since the last call: as an error, or among the problems.

        Raises:
            FileNotFoundError: there are some, and they are not to be skipped.
        """
        missing, asked = self._missing, self._asked
        self._missing, self._asked = [], 0
        if missing and not self.skip_bad:
            raise FileNotFoundError(
                f"{source}: {len(missing)} of {asked} images do not exist in {self.root} or below: {_listed(missing)}. "
                f"Export the annotations together with their images, or put the images there; {HINT}"
            )
        for name in missing:
            self.problems.add_image("without a file", f"{source}, {name}")

    def unused(self) -> list[str]:
        """A line about the image files that no annotation names, if there are any."""
        spare = [file for file in self.files if self.root / file not in self._taken]
        return [f"{len(spare)} image file(s) have no annotations and are left out: {_listed(spare)}"] if spare else []


def _holds_masks(folder: PurePosixPath) -> bool:
    return place_of(folder.parts).kind == "mask" or "segmentationobject" in map(str.lower, folder.parts)


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many folders, from the last one upwards, two paths have in common."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a.lower() != b.lower():
            break
        count += 1
    return count
