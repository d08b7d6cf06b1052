"""The plan of a prepared copy: where each sample will lie, and whether a folder can be gone on with."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.base import SegmentationDataset
from dataset.prepared import (
    FORMAT,
    VERSION,
    Manifest,
    SampleTable,
    aligned,
    is_prepared,
    read_manifest,
    read_table,
)
from dataset.reading.pool import run_tasks


def plan(data: SegmentationDataset, part_bytes: int, workers: int) -> SampleTable:
    """Lays out a split, from the headers of its images.

    Args:
        data: the source.
        part_bytes: size at which a new file is begun; a sample is never divided.
        workers: reading processes; 0 reads in this one.

    Raises:
        ValueError, FileNotFoundError: an image has no header that can be read, or has gone.
    """
    chunks = [range(start, min(start + 256, len(data))) for start in range(0, len(data), 256)]
    facts = np.empty((len(data), 4), dtype=np.int64)
    with tqdm(total=len(data), unit="files", desc=f"{data.split} sizes", disable=None, leave=False) as bar:
        for chunk, rows in run_tasks(_source_facts, data, chunks, workers):
            facts[chunk.start : chunk.stop] = rows
            bar.update(len(chunk))
    channels = 3 if data.mask_paths is None else 4
    parts, offsets, part, offset = [], [], 0, 0
    for height, width in facts[:, :2].tolist():
        if offset and offset + height * width * channels > part_bytes:
            part, offset = part + 1, 0
        parts.append(part)
        offsets.append(offset)
        offset = aligned(offset + height * width * channels)
    root = f"{data.root}/"
    images, masks = ([path.removeprefix(root) for path in paths or []] for paths in (data.image_paths, data.mask_paths))
    return SampleTable(
        images, masks or None, facts[:, 0], facts[:, 1], np.array(parts), np.array(offsets), facts[:, 2], facts[:, 3]
    )


def _source_facts(data: SegmentationDataset, chunk: range) -> tuple[range, list[tuple[int, int, int, int]]]:
    """(height, width, bytes, time) of the samples; files have them together with their masks."""
    rows = []
    for index in chunk:
        files = [data.image_paths[index]] + ([] if data.mask_paths is None else [data.mask_paths[index]])
        stats = [os.stat(path) for path in files]
        rows.append((*_read_size(files[0]), sum(s.st_size for s in stats), max(int(s.st_mtime) for s in stats)))
    return chunk, rows


def agree(
    out: Path, datasets: dict[str, SegmentationDataset], tables: dict[str, SampleTable]
) -> tuple[Manifest, dict[str, SampleTable]]:
    """Compares with what is in the folder already.

    Args:
        out: the folder of the copy, new or not.
        datasets: the source, by split.
        tables: the plans for them.

    Returns:
        the manifest to go on with, and the tables that hold: those in the folder, where it has them.

    Raises:
        ValueError: the folder was made from another source.
    """
    data = next(iter(datasets.values()))
    wanted = {
        "format": FORMAT,
        "version": VERSION,
        "codec": "raw",
        "dataset": data.name,
        "source": str(data.root),
        "classes": list(data.classes),
        "palette": [list(colour) for colour in data.palette],
        "label_ids": list(data.label_ids),
        "label_table": data.label_table.tolist(),
        "splits": {},
    }
    if not is_prepared(out):
        return wanted, tables
    manifest = read_manifest(out)
    for key in ("dataset", "classes", "label_table"):
        if manifest[key] != wanted[key]:
            raise ValueError(
                f"{out} is a copy with another {key.replace('_', ' ')}: {manifest[key]} instead of {wanted[key]}. "
                "Give another folder, or --overwrite"
            )
    agreed = {}
    for split, table in tables.items():
        agreed[split] = read_table(out, split, manifest) if split in manifest["splits"] else table
        if reason := _difference(agreed[split], table):
            raise ValueError(
                f"the source {data.root}, split {split}, is not what {out} was made from: {reason}. "
                "Give another folder, or --overwrite to make the copy anew"
            )
    return manifest | {"source": str(data.root)}, agreed


def _difference(old: SampleTable, new: SampleTable) -> str:
    if len(old.images) != len(new.images):
        return f"it has {len(new.images)} samples instead of {len(old.images)}"
    for index, (was, now) in enumerate(zip(old.images, new.images, strict=True)):
        if was != now or (old.masks and new.masks and old.masks[index] != new.masks[index]):
            return f"sample {index} is {now} instead of {was}"
    changed = (old.source_bytes != new.source_bytes) | (old.source_times != new.source_times)
    changed |= (old.heights != new.heights) | (old.widths != new.widths)
    if changed.any():
        return f"{changed.sum()} sample(s) have changed since, first {new.images[int(changed.argmax())]}"
    return ""


def new_entry(table: SampleTable, content: bytes) -> dict:
    """What the manifest says of a split that has been begun, whose samples.npz has this content."""
    sizes = np.stack([table.heights, table.widths])
    facts = np.stack([table.source_bytes, table.source_times])
    names = "\0".join([*table.images, *(table.masks or [])])
    return {
        "complete": False,
        "count": len(table.images),
        "masks": table.masks is not None,
        "smallest_sides": sizes.min(axis=1).tolist(),  # height, width
        "largest_sides": sizes.max(axis=1).tolist(),
        "parts": table.num_parts,
        "bytes": sum(table.part_bytes(part) for part in range(table.num_parts)),
        "samples_sha256": hashlib.sha256(content).hexdigest(),
        "source_fingerprint": hashlib.sha256(os.fsencode(names) + facts.astype("<i8").tobytes()).hexdigest(),
    }


def _read_size(path: str) -> tuple[int, int]:
    """(height, width) from an image's header; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.height, image.width
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError and others for bad files
        raise ValueError(f"the image {path} cannot be read: {error}") from error
