"""Makes the prepared copy of a data set that training and evaluation read as `--data OUT`; see `dataset.prepared`.

    python -m dataset.prepare citys /data/cityscapes /fast/cityscapes
    python -m dataset.prepare citys /data/cityscapes /fast/cityscapes --verify

The files of a copy are written one after the other, each whole or not at all, so a run that was stopped goes on where
it was. Every sample is read back from the disk and compared with what was decoded.
"""

import fcntl
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dataset import DATASETS, build_dataset
from dataset.base import SegmentationDataset
from dataset.prepared import (
    MANIFEST,
    SAMPLES,
    SampleTable,
    is_prepared,
    part_path,
    unfinished_parts,
    write_manifest,
)
from dataset.prepared_plan import agree, new_entry, plan
from dataset.reading.pool import DEFAULT_WORKERS, run_tasks
from dataset.verify import verify
from utils.cli import Parser, run_cli
from utils.files import atomic_file

PART_BYTES = 256 << 20  # what is lost at most, for each worker, when a run is stopped
_LOCK = "prepared.lock"
_FIRST_FILES = _LOCK, f".{MANIFEST}."  # beginnings of all names there are when a run was stopped at its very beginning


def prepare(
    name: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    *,
    ignore_label: int | None = None,
    workers: int = DEFAULT_WORKERS,
    overwrite: bool = False,
    part_bytes: int = PART_BYTES,
) -> int:
    """Writes what is missing of a copy, and says what it does.

    Args:
        name: one of `DATASETS`.
        root: the data set's folder.
        out: folder of the copy; new, empty, or a copy of the same data set.
        splits: added to those that the copy has.
        ignore_label: a further mask value that means "ignored".
        workers: reading and writing processes; 0 works in this one.
        overwrite: remove a copy that is there.
        part_bytes: size of the files; samples are never divided.

    Returns:
        Number of files written.

    Raises:
        ValueError: bad data, too little disk, or a folder that holds something else.
        OSError: a file cannot be read or written.
    """
    out = Path(out).expanduser().absolute()
    if is_prepared(Path(root).expanduser().absolute()):
        raise ValueError(f"{root} is a prepared copy itself; give the folder of the data set")
    datasets = {split: build_dataset(name, root, split, ignore_label=ignore_label) for split in splits}
    if out.exists() and not is_prepared(out) and not _is_new(out):
        raise ValueError(f"{out} holds something else than a prepared copy; give a new or an empty folder")
    with _locked(out):  # before anything is removed or counted: another process may be writing
        tables = {split: plan(data, part_bytes, workers) for split, data in datasets.items()}
        if overwrite:
            _remove(out)
        return _write_missing(out, datasets, tables, workers)


def _is_new(out: Path) -> bool:
    return out.is_dir() and all(name.startswith(_FIRST_FILES) for name in os.listdir(out))


def _write_missing(
    out: Path, datasets: dict[str, SegmentationDataset], tables: dict[str, SampleTable], workers: int
) -> int:
    """Writes the files that the copy lacks; returns their number."""
    manifest, tables = agree(out, datasets, tables)
    todo = [
        (split, part)
        for split, table in tables.items()
        for part in (unfinished_parts(out, split, table) if (out / split).is_dir() else range(table.num_parts))
    ]
    _check_disk(out, tables, todo)
    write_manifest(out, manifest)  # before anything else, so that a folder with files is known as a copy
    for split, table in tables.items():
        (out / split).mkdir(exist_ok=True)
        for stale in (out / split).glob("*.tmp"):
            stale.unlink()
        if split not in manifest["splits"]:
            content = table.encode()
            with atomic_file(out / split / SAMPLES) as file:
                file.write(content)
            manifest["splits"][split] = new_entry(table, content)
    write_manifest(out, manifest)
    total = sum(tables[split].part_bytes(part) for split, part in todo)
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
        for written in run_tasks(_write_part, (out, datasets, tables), todo, workers):
            bar.update(written)
    for split in tables:
        manifest["splits"][split]["complete"] = True
    write_manifest(out, manifest)
    return len(todo)


def _check_disk(out: Path, tables: dict[str, SampleTable], todo: list[tuple[str, int]]) -> None:
    """Says the sizes; refuses what does not fit."""
    for split, table in tables.items():
        size = sum(table.part_bytes(part) for part in range(table.num_parts))
        print(f"{split}: {len(table.images)} samples, {_readable(size)} in {table.num_parts} file(s)")
    needed = sum(tables[split].part_bytes(part) for split, part in todo)
    free = shutil.disk_usage(out).free
    print(f"to write: {len(todo)} file(s), {_readable(needed)}; {_readable(free)} are free in {out}")
    if needed > free:
        raise ValueError(
            f"the copy needs {_readable(needed)} more in {out} and {_readable(free)} are free; "
            "make room, give a folder on another disk, or fewer splits (--split)"
        )


def _readable(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 10 << 30 else f"{size / (1 << 20):.1f} MiB"


def _write_part(shared: tuple, task: tuple[str, int]) -> int:
    """Decodes the samples of one file, writes it, reads it back and compares; returns its size."""
    out, datasets, tables = shared
    split, part = task
    data, table = datasets[split], tables[split]
    path = part_path(out, split, part)
    temporary = path.with_name(path.name + ".tmp")
    sums = []
    with open(temporary, "w+b") as file:
        for index in table.samples_of(part):
            image, mask = data[index]
            if image.shape[:2] != (table.heights[index], table.widths[index]):
                raise ValueError(f"{data.image_paths[index]} has changed while it was copied; run again")
            content = np.ascontiguousarray(image).tobytes() + (b"" if mask is None else mask.tobytes())
            sums.append(zlib.crc32(content))
            file.seek(int(table.offsets[index]))
            file.write(content)
        file.seek(table.footer(part))
        file.write(np.array(sums, dtype="<u4").tobytes())
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that the disk is read, and not what memory keeps of the file
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for index, wanted in zip(table.samples_of(part), sums, strict=True):
            file.seek(int(table.offsets[index]))
            if zlib.crc32(file.read(int(table.lengths[index]))) != wanted:
                raise OSError(f"{temporary} does not hold what was written to it: is the disk sound?")
    os.replace(temporary, path)
    return table.part_bytes(part)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps a second run out of the folder; one that is made here and gets nothing is removed again."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = out / _LOCK
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing to {out}") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            if made and os.listdir(out) == [_LOCK]:
                lock.unlink()
                for folder in made:
                    folder.rmdir()


def _remove(out: Path) -> None:
    """Removes a prepared copy, and nothing else."""
    if not is_prepared(out):
        return
    for folder in [out / split for split in ("train", "val", "test") if (out / split).is_dir()]:
        for path in list(folder.iterdir()):
            if path.name == SAMPLES or path.name.startswith("part-") or path.suffix == ".tmp":
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    (out / MANIFEST).unlink()  # last: what a stopped run leaves is still known as a copy


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 if all is right, 1 if --verify found something, 2 for other errors."""
    parser = Parser(__doc__, prog="python -m dataset.prepare")
    parser.add_argument("dataset", metavar="DATASET", choices=DATASETS, help=", ".join(DATASETS))
    parser.add_argument("root", metavar="ROOT", help="the data set's folder")
    parser.add_argument("out", metavar="OUT", help="folder of the copy")
    parser.add_argument("--split", nargs="+", choices=("train", "val", "test"), default=["train", "val"])
    parser.add_argument("--ignore-label", type=int, help="a further mask value that means ignored")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="make the copy anew")
    parser.add_argument(
        "--verify", action="store_true", help="write nothing; compare the copy with its checksums and the source"
    )
    args = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    if args.verify:
        problems = verify(args.dataset, args.root, args.out, args.split, args.ignore_label, args.workers)
        print("\n".join(problems) if problems else f"{args.out} is equal to its source")
        return 1 if problems else 0
    written = prepare(
        args.dataset, args.root, args.out, args.split, ignore_label=args.ignore_label, workers=args.workers,
        overwrite=args.overwrite,
    )  # fmt: skip
    print(f"{'wrote' if written else 'already complete:'} {args.out}")
    print(f"use it as: --dataset {args.dataset} --data {args.out}")
    return 0


def run() -> None:
    run_cli(main, interrupted="the same command goes on where this one stopped")


if __name__ == "__main__":
    run()
