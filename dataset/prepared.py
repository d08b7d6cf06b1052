"""A prepared copy of a data set: every sample decoded once, stored as it is in memory, read through memory maps.

    FOLDER/prepared.json                the manifest: data set, label map, splits, and a checksum of itself
    FOLDER/<split>/samples.npz          names, sizes and places of the samples
    FOLDER/<split>/part-00000.bin ...   of each sample the image, uint8 (H, W, 3), and then the train ids, uint8 (H, W);
                                        at the end the CRC-32 of every sample, uint32 in the order of the samples

A crop touches the pages that it shows and no others. `dataset.prepare` writes such folders.
"""

import hashlib
import io
import json
import mmap
import os
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dataset.reading.files import PathList
from utils.files import write_text

MANIFEST = "prepared.json"
SAMPLES = "samples.npz"
FORMAT, VERSION = "prepared segmentation data", 1
ALIGNMENT = 64
_MAPS_KEPT = 128  # each holds a file descriptor, of which a process usually has 1024

Manifest = dict[str, Any]


@dataclass(frozen=True)
class SampleTable:
    """Where the samples of a split lie; all arrays are of length N.

    Attributes:
        images: source files, relative to the source's root where they lie below it.
        masks: the same for masks; None where the split has none.
        heights, widths: in pixels, int64.
        parts: number of the file that holds the sample, int64, never falling.
        offsets: first byte in that file, int64.
        source_bytes: size of image file + size of mask file, int64.
        source_times: latest change of the two, whole seconds, int64.
    """

    images: Sequence[str]
    masks: Sequence[str] | None
    heights: np.ndarray
    widths: np.ndarray
    parts: np.ndarray
    offsets: np.ndarray
    source_bytes: np.ndarray
    source_times: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bytes of each sample."""
        return self.heights * self.widths * (3 if self.masks is None else 4)

    @cached_property
    def starts(self) -> np.ndarray:
        """First sample of each part, and N at the end."""
        return np.searchsorted(self.parts, np.arange(self.num_parts + 1))

    @property
    def num_parts(self) -> int:
        """How many files there are."""
        return int(self.parts[-1]) + 1

    def samples_of(self, part: int) -> range:
        """The samples in a part."""
        return range(int(self.starts[part]), int(self.starts[part + 1]))

    def footer(self, part: int) -> int:
        """Where a part's checksums begin."""
        last = self.samples_of(part)[-1]
        return aligned(int(self.offsets[last] + self.lengths[last]))

    def part_bytes(self, part: int) -> int:
        """Size of a part's file."""
        return self.footer(part) + 4 * len(self.samples_of(part))

    def encode(self) -> bytes:
        """The content of samples.npz."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {"images": _joined(self.images)}
        if self.masks is not None:
            arrays["masks"] = _joined(self.masks)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def decode(cls, content: bytes) -> "SampleTable":
        """Reads the content of samples.npz.

        Raises:
            ValueError, KeyError, OSError, zipfile.BadZipFile: it is something else.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            masks = _split(arrays["masks"]) if "masks" in arrays else None
            return cls(_split(arrays["images"]), masks, **{name: arrays[name] for name in _ARRAYS})


_ARRAYS = ("heights", "widths", "parts", "offsets", "source_bytes", "source_times")


class PreparedCopy:
    """One split of a prepared copy, opened for reading.

    Attributes:
        folder: the copy.
        split: the split.
        source_root: root of the data set that was copied; it need not exist any more.
        classes, palette: of the data set.
        table: its `SampleTable`.
        label_table: the map from mask values to train ids that made the copy, uint8 (256,).
    """

    def __init__(self, folder: Path, name: str, split: str) -> None:
        """Reads the manifest and checks that all files of the split are there in their full size.

        Args:
            folder: it holds a manifest.
            name: name under which the data set is registered.
            split: train, val or test.

        Raises:
            ValueError: a copy of another data set, without this split, unfinished, damaged or of another version.
        """
        self.folder, self.split = folder, split
        manifest = read_manifest(folder)
        if manifest["dataset"] != name:
            raise ValueError(f"{folder} is a prepared copy of {manifest['dataset']}, not of {name}")
        remedy = f"python -m dataset.prepare {name} {manifest['source']} {folder} --split {split}"
        if split not in manifest["splits"]:
            raise ValueError(
                f"the prepared copy {folder} has no split {split!r}; it has {', '.join(manifest['splits'])}. "
                f"Add it with: {remedy}"
            )
        if not manifest["splits"][split]["complete"]:
            raise ValueError(f"the prepared copy {folder} is unfinished in split {split}; go on with: {remedy}")
        self.source_root = Path(manifest["source"])
        self.classes: list[str] = manifest["classes"]
        self.palette = [tuple(colour) for colour in manifest["palette"]]
        self.label_table = np.array(manifest["label_table"], dtype=np.uint8)
        self.table = read_table(folder, split, manifest)
        if bad := unfinished_parts(folder, split, self.table):
            path = part_path(folder, split, bad[0])
            size = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
            raise ValueError(
                f"the prepared copy {folder} is damaged: {path} {size} where {self.table.part_bytes(bad[0])} are "
                f"expected ({len(bad)} of {self.table.num_parts} files are bad). Mend it with: {remedy}"
            )
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()

    def __len__(self) -> int:
        return len(self.table.images)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": OrderedDict()}  # maps cannot be sent to other processes; each opens its own

    def view(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image, uint8 (H, W, 3), and train ids, uint8 (H, W), as read-only views of the file; nothing is read yet."""
        table = self.table
        height, width, offset = int(table.heights[index]), int(table.widths[index]), int(table.offsets[index])
        content = self._map(int(table.parts[index]))
        pixels = height * width
        image = np.frombuffer(content, np.uint8, 3 * pixels, offset).reshape(height, width, 3)
        if table.masks is None:
            return image, None
        return image, np.frombuffer(content, np.uint8, pixels, offset + 3 * pixels).reshape(height, width)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and train ids in memory, checked.

        Raises:
            ValueError: the bytes are not those that were written.
        """
        if not self.is_sound(index):
            raise self.damage(index, "its checksum differs")
        image, mask = self.view(index)
        return image.copy(), None if mask is None else mask.copy()

    def damage(self, index: int, sign: str) -> ValueError:
        """What to raise for a sample that is not what was written."""
        path = part_path(self.folder, self.split, int(self.table.parts[index]))
        return ValueError(
            f"{self.table.images[index]} in the prepared copy {self.folder} is damaged ({sign}): "
            f"remove {path} and run dataset.prepare again, which makes what is missing"
        )

    def is_sound(self, index: int) -> bool:
        """Whether a sample has the checksum that was noted when it was written."""
        part, offset = int(self.table.parts[index]), int(self.table.offsets[index])
        content = self._map(part)
        sums = np.frombuffer(content, "<u4", offset=self.table.footer(part))
        with memoryview(content) as view, view[offset : offset + int(self.table.lengths[index])] as sample:
            return zlib.crc32(sample) == int(sums[index - self.table.samples_of(part)[0]])

    def _map(self, part: int) -> mmap.mmap:
        content = self._maps.pop(part, None)  # threads may read at the same time: each holds its own
        if content is None:
            with open(part_path(self.folder, self.split, part), "rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps[part] = content
        if len(self._maps) > _MAPS_KEPT:
            self._maps.popitem(last=False)  # arrays that still look into it keep it open
        return content


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared copy, finished or not."""
    return (folder / MANIFEST).is_file()


def aligned(offset: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def part_path(folder: Path, split: str, part: int) -> Path:
    """The file of a part."""
    return folder / split / f"part-{part:05d}.bin"


def unfinished_parts(folder: Path, split: str, table: SampleTable) -> list[int]:
    """Parts whose file is missing or has another size than it should."""
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder / split)}
    parts = range(table.num_parts)
    return [p for p in parts if sizes.get(part_path(folder, split, p).name) != table.part_bytes(p)]


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        ValueError: it is not one, has been changed, or is of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, checksum = manifest["version"], manifest.pop("checksum")
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r} instead of {FORMAT!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the manifest of a prepared copy: {error!r}. {_ANEW}") from error
    if version != VERSION:
        raise ValueError(f"{path} is of version {version} and this program reads {VERSION}. {_ANEW}")
    if checksum != _checksum(manifest):
        raise ValueError(f"{path} has been changed since it was written (its checksum differs). {_ANEW}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest with its checksum, whole or not at all."""
    write_text(folder / MANIFEST, json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1) + "\n")


def read_table(folder: Path, split: str, manifest: Manifest) -> SampleTable:
    """The samples of a split that the manifest names.

    Raises:
        ValueError: the file is not the one that was written.
    """
    path = folder / split / SAMPLES
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["splits"][split]["samples_sha256"]:
            raise ValueError("its checksum differs")
        return SampleTable.decode(content)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is missing or has been changed since it was written: {error}. {_ANEW}") from error


_ANEW = "Make the copy anew: python -m dataset.prepare DATASET ROOT OUT --overwrite"


def _checksum(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode("utf-8")).hexdigest()


def _joined(names: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), dtype=np.uint8)


def _split(content: np.ndarray) -> PathList:
    return PathList(os.fsdecode(name) for name in content.tobytes().split(b"\0"))
