"""The decoded cache of a data set: every sample decoded once, stored as it is in memory, read through memory maps.

    FOLDER/prepared.json                the manifest: data set, label map, splits, and a checksum of itself
    FOLDER/<split>/samples.npz          names, sizes and positions of the samples
    FOLDER/<split>/part-00000.bin ...   of each sample the image, uint8 (H, W, 3), then the train ids, uint8 (H, W);
                                        at the end the CRC-32 of every sample, uint32 in the order of the samples

A random crop reads only the pages of the file that it covers. `python -m dataset.prepare` writes such folders.
"""

import hashlib
import io
import json
import mmap
import os
import shlex
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dataset.config import ReadingConfig
from dataset.labels import ILLEGAL, LabelMap
from dataset.reading.files import PathList
from utils.files import write_text

MANIFEST = "prepared.json"
SAMPLES = "samples.npz"
FORMAT = {"format": "prepared segmentation data", "version": 2}
ALIGNMENT = 64  # bytes; every sample starts at a multiple
_REBUILD = "Build the cache again: python -m dataset.prepare DATASET ROOT OUT --overwrite"


class SampleTable:
    """The samples of a split and where they are stored.

    Attributes:
        images, masks: source files, relative to the source's root where they are below it; no masks: None.
        heights, widths: in pixels, int64 (N,).
        parts: number of the file that holds the sample, ascending, int64 (N,).
        offsets: first byte in that file, int64 (N,).
        source_bytes, source_times: size of image and mask file together; latest modification of the two in seconds.
        lengths: bytes of each sample, int64 (N,).
        num_parts: number of files.
    """

    def __init__(self, content: bytes) -> None:
        """Reads the content of samples.npz, in which names are joined by zero bytes."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in ("heights", "widths", "parts", "offsets", "source_bytes", "source_times"):
                setattr(self, name, arrays[name])
            self.images, self.masks = (
                PathList(map(os.fsdecode, arrays[name].tobytes().split(b"\0"))) if name in arrays else None
                for name in ("images", "masks")
            )
        self.lengths = self.heights * self.widths * (3 if self.masks is None else 4)
        self.num_parts = int(self.parts[-1]) + 1

    def samples_of(self, part: int) -> range:
        """The samples in a part."""
        return range(*np.searchsorted(self.parts, [part, part + 1]).tolist())

    def checksums_at(self, part: int) -> int:
        """First byte of a part's checksums."""
        last = self.samples_of(part)[-1]
        end = int(self.offsets[last] + self.lengths[last])
        return end + -end % ALIGNMENT

    def part_bytes(self, part: int) -> int:
        """Size of a part's file."""
        return self.checksums_at(part) + 4 * len(self.samples_of(part))

    def incomplete_parts(self, folder: Path) -> list[int]:
        """Parts whose file is missing in the split's folder or has the wrong size."""
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.is_dir() else {}
        return [p for p in range(self.num_parts) if sizes.get(part_path(folder, p).name) != self.part_bytes(p)]


class DecodedCache:
    """One split of a decoded cache, which a data set reads instead of its files.

    Attributes:
        folder, split: what was opened.
        root: root of the source. Paths stay those below it, whether it still exists or not.
        labels, palette: of the data set.
        table: all samples of the split.
        image_paths, mask_paths: source files of the selected samples, absolute; no masks: None.
    """

    def __init__(self, folder: Path, name: str, split: str) -> None:
        """Opens a split of the data set `name` and checks that all its files have their full size.

        Raises:
            ValueError: a cache of another data set, without this split, incomplete, damaged or of another version.
        """
        self.folder, self.split = folder, split
        manifest = read_manifest(folder)
        if manifest["dataset"] != name:
            raise ValueError(f"{folder} is a decoded cache of {manifest['dataset']}, not of {name}")
        command = ["python", "-m", "dataset.prepare", name, manifest["source"], str(folder), "--split", split]
        self._command = shlex.join(command + ReadingConfig(**manifest["reading"]).words())
        if split not in manifest["splits"]:
            raise ValueError(f"the decoded cache {folder} has no split {split}. Add it with: {self._command}")
        self.table = read_table(folder, split, manifest)
        if bad := self.table.incomplete_parts(folder / split):
            raise ValueError(
                f"the decoded cache {folder} is incomplete: {len(bad)} of {self.table.num_parts} files are missing or "
                f"of the wrong size, first {part_path(folder / split, bad[0])}. Complete it with: {self._command}"
            )
        self.root = Path(manifest["source"])
        self.palette = [tuple(colour) for colour in manifest["palette"]]
        self.labels = read_labels(manifest)
        self._reading = manifest["reading"]
        # An absolute name stays unchanged.
        self.image_paths = PathList(os.path.join(self.root, name) for name in self.table.images)
        self.mask_paths = self.table.masks and PathList(
            name and os.path.join(self.root, name) for name in self.table.masks
        )
        self._samples = np.arange(len(self.image_paths))  # in the table
        self._stamp = (folder / MANIFEST).stat().st_mtime_ns

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The sample of each source file, by its normalised path."""
        paths = [*enumerate(self.image_paths), *enumerate(self.mask_paths or [])]
        return {os.path.normpath(path): index for index, path in paths}

    def check_reading(self, wanted: ReadingConfig) -> None:
        """Compares how the samples were read; ValueError where it differs."""
        if self._reading != wanted.given():
            words = [" ".join(config.words()) or "none" for config in (ReadingConfig(**self._reading), wanted)]
            raise ValueError(
                f"the decoded cache {self.folder} was built with other settings of how files are read: it has "
                f"{words[0]}, asked for is {words[1]}. Give the same, or use --data {self.root}, or build another cache"
            )

    def select(self, pairs: Sequence[tuple[str, str | None]], list_file: str) -> None:
        """Keeps the samples of these absolute paths, in this order; `list_file` is for messages.

        Raises:
            ValueError: the cache does not have one of them.
        """
        selected = [self.index_of.get(os.path.normpath(image)) for image, _ in pairs]
        for index, (image, mask) in zip(selected, pairs, strict=True):
            if index is None or (mask is not None and self.index_of.get(os.path.normpath(mask)) != index):
                raise ValueError(
                    f"{list_file} names {image if mask is None else f'{image} with {mask}'}, which split {self.split} "
                    f"of the decoded cache {self.folder} does not have; use this list with --data {self.root}"
                )
        self._samples = np.array(selected)
        self.image_paths = PathList(self.image_paths[index] for index in selected)
        self.mask_paths = PathList(self.mask_paths[index] for index in selected) if pairs[0][1] is not None else None
        del self.index_of  # large, and every worker process would get it

    def view(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image, uint8 (H, W, 3), and train ids, uint8 (H, W), mapped read-only; no checksum is compared."""
        table, sample = self.table, self._samples[index]
        height, width, start = table.heights[sample], table.widths[sample], table.offsets[sample]
        content, end = self._map(table.parts[sample]), start + 3 * height * width
        image = content[start:end].reshape(height, width, 3)
        if self.mask_paths is None:
            return image, None
        return image, content[end : end + height * width].reshape(height, width)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As `view`, in memory; ValueError where the checksum is not the one that was stored."""
        table, sample = self.table, self._samples[index]
        part, start = table.parts[sample], table.offsets[sample]
        content = self._map(part)
        checksums = content[table.checksums_at(part) :].view("<u4")
        if zlib.crc32(content[start : start + table.lengths[sample]]) != checksums[sample - table.samples_of(part)[0]]:
            raise self._damage(index, "its checksum differs")
        return tuple(None if array is None else array.copy() for array in self.view(index))

    def source_facts(self) -> list[tuple[int, int]]:
        """(bytes, time in seconds) of the source's files of each sample, as `facts_of_files` gives them."""
        facts = np.stack([self.table.source_bytes, self.table.source_times], axis=1)[self._samples]
        return list(map(tuple, facts.tolist()))

    def check_labels(self, index: int, labels: np.ndarray) -> None:
        """Checks the train ids of a crop, uint8 (h, w), since no checksum covers it; ValueError for illegal ones."""
        # Void, 255, becomes 1 and `UNLABELLED`, 254, 0.
        if (labels + np.uint8(2) > len(self.labels.classes) + 1).any():
            raise self._damage(index, "it holds a label that is no class")

    def _damage(self, index: int, sign: str) -> ValueError:
        path = part_path(self.folder / self.split, self.table.parts[self._samples[index]])
        return ValueError(
            f"{self.image_paths[index]} in the decoded cache {self.folder} is damaged ({sign}). "
            f"Remove {path} and repair the cache with: {self._command}"
        )

    def _map(self, part: int) -> np.ndarray:
        return _map_file(part_path(self.folder / self.split, part), self._stamp)


@lru_cache(maxsize=128)  # each holds a file descriptor, of which a process usually has 1024
def _map_file(path: Path, stamp: int) -> np.ndarray:
    """The bytes of a file, mapped read-only; `stamp` changes when the cache is built again."""
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def is_cache(folder: Path) -> bool:
    """Whether a folder is a decoded cache, complete or not."""
    return (folder / MANIFEST).is_file()


def part_path(folder: Path, part: int) -> Path:
    """The file of a part in a split's folder."""
    return folder / f"part-{part:05d}.bin"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest without its checksum; ValueError where it has been changed or is of another version."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = {key: manifest[key] for key in FORMAT}
        if found not in (FORMAT, FORMAT | {"version": 1}):
            raise ValueError(f"got {found}, expected {FORMAT}")
        if manifest.pop("checksum") != _checksum(manifest):
            raise ValueError("it has been changed since it was written, its checksum differs")
        if found != FORMAT:  # the first version knew --ignore-label alone, and masks of values
            flags, table = manifest.pop("flags", []), manifest.pop("label_table")
            values = [[value, train_id] for value, train_id in enumerate(table) if train_id != ILLEGAL]
            ignored = {"ignore_label": int(flags[1])} if flags else {}
            labels = {"values": values, "colors": [], "tolerance": 0, "implied_void": True}
            manifest |= FORMAT | {"reading": ignored, "labels": labels}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the manifest {path} of a decoded cache cannot be used ({type(error).__name__}: {error}). {_REBUILD}"
        ) from error
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest with its checksum, atomically."""
    write_text(folder / MANIFEST, json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1) + "\n")


def read_table(folder: Path, split: str, manifest: dict[str, Any]) -> SampleTable:
    """The samples of a split that the manifest lists; ValueError where the file is not the one that was written."""
    path = folder / split / SAMPLES
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["splits"][split]["samples_sha256"]:
            raise ValueError("its checksum differs")
        return SampleTable(content)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is missing or has been changed since it was written: {error}. {_REBUILD}") from error


def labels_record(labels: LabelMap) -> dict[str, Any]:
    """A label map as plain data, apart from its classes."""
    return {
        "values": [[value, train_id] for value, train_id in labels.values.items()],
        "colors": [[list(color), train_id] for color, train_id in labels.colors.items()],
        "tolerance": labels.tolerance,
        "implied_void": labels.implied_void,
    }


def read_labels(manifest: dict[str, Any]) -> LabelMap:
    """The label map that the samples were read with."""
    record = dict(manifest["labels"])
    colors = {tuple(color): train_id for color, train_id in record.pop("colors")}
    return LabelMap(tuple(manifest["classes"]), dict(record.pop("values")), colors, **record)


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode("utf-8")).hexdigest()
