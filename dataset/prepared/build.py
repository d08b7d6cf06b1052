"""Builds a decoded cache: plans the files of each split, then decodes and writes those that are missing."""

import fcntl
import hashlib
import io
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.config import ReadingConfig
from dataset.prepared import cache
from dataset.prepared.cache import ALIGNMENT, MANIFEST, SAMPLES, SampleTable, is_cache, part_path
from dataset.reading.files import facts_of_files
from dataset.reading.images import read_header, size_as_read
from dataset.reading.pool import DEFAULT_WORKERS, run_tasks
from utils.files import atomic_file, space_left

PART_BYTES = 256 << 20  # what each worker loses at most when a run is interrupted
_LOCK = "prepared.lock"


def build_cache(
    name: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    *,
    reading: ReadingConfig | None = None,
    workers: int = DEFAULT_WORKERS,
    overwrite: bool = False,
    part_bytes: int = PART_BYTES,
) -> int:
    """Writes the missing files of a cache and prints sizes and progress.

    Args:
        name, root, reading: see `build_dataset`.
        out: folder of the cache; new, empty, or a cache of the same data set.
        splits: added to those that the cache has.
        workers: reading and writing processes; 0 works in this one.
        overwrite: remove the cache that is there.
        part_bytes: size at which a new file is started; samples are never divided.

    Returns:
        Number of files written.

    Raises:
        ValueError: bad data, a changed source, too little disk space, or a folder that holds other files.
        OSError: a file cannot be read or written.
    """
    root, out = (Path(folder).expanduser().absolute() for folder in (root, out))
    if is_cache(root):
        raise ValueError(f"{root} is a decoded cache itself; give the folder of the data set")
    sources = {split: build_dataset(name, root, split, reading=reading) for split in splits}
    unfinished = (_LOCK, f".{MANIFEST}.")  # what a run leaves that was killed before it had written the manifest
    if out.exists() and not is_cache(out) and any(not name.startswith(unfinished) for name in os.listdir(out)):
        raise ValueError(f"{out} is neither empty nor a decoded cache; give a new or an empty folder")
    with _locked(out):
        plans = {split: _plan(source, part_bytes, workers) for split, source in sources.items()}
        if overwrite and is_cache(out):
            for pattern in ("*/part-*.bin", f"*/{SAMPLES}", MANIFEST):  # in this order: an interruption leaves a cache
                for path in out.glob(pattern):
                    path.unlink()
        manifest, tables = _reconcile(out, sources, plans)
        todo = [(split, part) for split, table in tables.items() for part in table.incomplete_parts(out / split)]
        total = sum(tables[split].part_bytes(part) for split, part in todo)
        size = f"{len(todo)} file(s), {total / 2**20:,.1f} MiB, to write; {space_left(out)}"
        print(size)
        if total > shutil.disk_usage(out).free:
            raise ValueError(f"too little disk space: {size}; make room, give another folder or fewer splits (--split)")
        cache.write_manifest(out, manifest)  # first, so that a folder with files is known as a cache
        for split in tables:
            (out / split).mkdir(exist_ok=True)
            for stale in (out / split).glob("*.tmp"):
                stale.unlink()
            if split not in manifest["splits"]:
                with atomic_file(out / split / SAMPLES) as file:
                    file.write(plans[split])
                manifest["splits"][split] = {"samples_sha256": hashlib.sha256(plans[split]).hexdigest()}
        cache.write_manifest(out, manifest)
        with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
            for written in run_tasks(_write_part, (out, sources, tables), todo, workers):
                bar.update(written)
    return len(todo)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps a second process out of the folder; a new folder in which nothing was written is removed again."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing to {out}") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            for path in out.glob("*/.part-*.tmp"):  # of terminated workers
                path.unlink()
            if made and os.listdir(out) == [_LOCK]:
                shutil.rmtree(out)


def _plan(source: SegmentationDataset, part_bytes: int, workers: int) -> bytes:
    """The `SampleTable` of a split, encoded; from the headers of its images."""
    with ThreadPoolExecutor(workers or 1) as pool:
        rows = pool.map(partial(_header, source), range(len(source)))
        facts = np.array([*tqdm(rows, f"{source.split} sizes", len(source), leave=False, disable=None)], dtype=np.int64)
    heights, widths, source_bytes, source_times = facts.T
    parts, offsets, part, end = [], [], 0, 0
    for length in (heights * widths * (3 if source.mask_paths is None else 4)).tolist():
        if end and end + length > part_bytes:
            part, end = part + 1, 0
        parts.append(part)
        offsets.append(end)
        end += length + -length % ALIGNMENT
    arrays = {"heights": heights, "widths": widths, "source_bytes": source_bytes, "source_times": source_times}
    for key, paths in (("images", source.image_paths), ("masks", source.mask_paths)):
        if paths is not None:
            names = [os.fsencode(path.removeprefix(f"{source.root}/")) for path in paths]
            arrays[key] = np.frombuffer(b"\0".join(names), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, parts=np.array(parts), offsets=np.array(offsets))
    return buffer.getvalue()


def _header(source: SegmentationDataset, index: int) -> tuple[int, int, int, int]:
    """(height, width) of a sample; bytes and time of its files."""
    path = source.image_paths[index]
    mask_path = source.mask_paths[index] if source.mask_paths is not None else ""
    files = [path, mask_path] if mask_path else [path]
    header, mask = read_header(path), read_header(mask_path).size if mask_path else None
    height, width = size_as_read(header, source.reading, mask)
    return height, width, *facts_of_files(files)


def _reconcile(
    out: Path, sources: dict[str, SegmentationDataset], plans: dict[str, bytes]
) -> tuple[dict[str, Any], dict[str, SampleTable]]:
    """The manifest to continue with, and the table of each split: the stored one or else the plan."""
    source = next(iter(sources.values()))
    manifest = cache.FORMAT | {
        "dataset": source.name,
        "source": str(source.root),
        "classes": list(source.classes),
        "palette": [list(colour) for colour in source.palette],
        "labels": cache.labels_record(source.labels),
        "reading": source.reading.given(),
        "splits": {},
    }
    tables = {split: SampleTable(plan) for split, plan in plans.items()}
    if not is_cache(out):
        return manifest, tables
    stored, advice = cache.read_manifest(out), "Give another folder, or --overwrite to build the cache again"
    for key in ("dataset", "classes", "reading", "labels"):
        if stored[key] != manifest[key]:
            changed = f" ({stored[key]}, now {manifest[key]})" if key == "reading" else ""
            raise ValueError(f"{out} was built from another data set or with another {key}{changed}. {advice}")
    for split in tables.keys() & stored["splits"]:
        old, new = cache.read_table(out, split, stored), tables[split]
        changed = [(now or was)[0] for was, now in zip_longest(_facts(old), _facts(new)) if was != now]
        if changed:
            raise ValueError(
                f"{len(changed)} sample(s) of the source {source.root}, split {split}, have been changed, added or "
                f"removed since {out} was built, first {changed[0]}. {advice}"
            )
        tables[split] = old
    return stored | {"source": str(source.root)}, tables


def _facts(table: SampleTable) -> Iterator[tuple]:
    arrays = (table.heights, table.widths, table.source_bytes, table.source_times)
    return zip(table.images, table.masks or table.images, *(array.tolist() for array in arrays), strict=True)


def _write_part(shared: tuple, task: tuple[str, int]) -> int:
    """Decodes the samples of one file and writes it; returns its size."""
    out, sources, tables = shared
    split, part = task
    source, table, checksums = sources[split], tables[split], []
    with atomic_file(part_path(out / split, part)) as file:
        for index in table.samples_of(part):
            image, mask = source[index]
            if image.shape[:2] != (table.heights[index], table.widths[index]):
                raise ValueError(f"{source.image_paths[index]} has changed while the cache was built; run again")
            content = image.tobytes() + (b"" if mask is None else mask.tobytes())
            checksums.append(zlib.crc32(content))
            file.write(content + bytes(-len(content) % ALIGNMENT))
        file.write(np.array(checksums, dtype="<u4").tobytes())
    return table.part_bytes(part)
