"""The synthetic data set: small street scenes, written as PNG in the layout of custom data sets.

A sample depends on (seed, split, index), size and difficulty alone. `python -m dataset.synthetic --root FOLDER` writes
it; a folder that already holds the same data set is left unchanged.
"""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataset.class_files import CLASSES_FILE
from dataset.synthetic.scenes import CLASSES, render_scene
from utils.cli import Parser
from utils.files import write_text

VERSION = 1  # incremented when the same parameters give other images
MARKER = "synthetic.json"
_UNFINISHED = "synthetic.unfinished"
_SPLITS, _FOLDERS = ("train", "val", "test"), ("images", "masks")
DIFFICULTIES = {"easy": 0.0, "normal": 0.5, "hard": 1.0}


def write_synthetic(
    root: str | os.PathLike[str],
    num_train: int = 400,
    num_val: int = 60,
    num_test: int = 60,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    difficulty: float | str = "normal",
    closeness: float = 0.0,
    overwrite: bool = False,
) -> bool:
    """Writes the data set, unless the folder holds it already.

    A folder that is incomplete is written again.

    Args:
        root: the folder; created with the folders above it.
        num_train, num_val, num_test: number of scenes of each split.
        size: (height, width) in pixels, at least 16 each.
        seed: an integer from 0.
        difficulty: 0 (easy) to 1 (hard), or easy, normal (0.5), hard.
        closeness: 0 (as in a street) to 1 (objects are near and never thin), for small images.
        overwrite: replace a synthetic data set of other parameters.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: a parameter out of range, or the folder holds another synthetic data set or other files.
    """
    root = Path(root).expanduser()
    counts = dict(zip(_SPLITS, (num_train, num_val, num_test), strict=True))
    difficulty = _difficulty(difficulty)
    if min(num_train, num_val) < 1 or num_test < 0:
        raise ValueError(f"{num_train}, {num_val}, {num_test} scenes: expected at least 1 for training and validation")
    if min(size) < 16:
        raise ValueError(f"size {size[0]} x {size[1]}: height and width must be at least 16")
    if seed < 0:
        raise ValueError(f"seed {seed}: expected an integer of at least 0")
    if not 0 <= closeness <= 1:
        raise ValueError(f"closeness {closeness}: expected a number from 0 to 1")
    drawing = {"size": list(size), "seed": seed, "difficulty": difficulty, "closeness": closeness}
    requested = {"version": VERSION, "scenes": counts} | drawing
    if not _prepare(root, requested, overwrite):
        return False

    write_text(root / CLASSES_FILE, "".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in CLASSES.items()))
    for split, count in counts.items():
        lines = []
        for index in range(count):
            names = [f"{folder}/{split}_{index:05d}.png" for folder in _FOLDERS]
            for name, picture in zip(names, synthetic_sample(split, index, **drawing), strict=True):
                Image.fromarray(picture).save(root / name)
            lines.append(" ".join(names) + "\n")
        if lines:
            write_text(root / f"{split}.txt", "".join(lines))
    write_text(root / MARKER, json.dumps(requested, indent=1) + "\n")  # last, so that it implies a complete data set
    (root / _UNFINISHED).unlink()
    return True


def synthetic_sample(
    split: str, index: int, size: tuple[int, int], seed: int, difficulty: float, closeness: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 (H, W, 3), and class numbers with 255 for void, uint8 (H, W), of one scene."""
    key = np.random.SeedSequence(seed, spawn_key=(_SPLITS.index(split), index))
    return render_scene(size, np.random.Generator(np.random.Philox(key)), difficulty, closeness)


def _prepare(root: Path, requested: dict, overwrite: bool) -> bool:
    """Makes an empty folder marked as unfinished; False if it holds the requested data set already."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; expected a folder")
    marker = root / MARKER
    if marker.is_file() and not (root / _UNFINISHED).exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = "an unreadable description"
        if found == requested:
            return False
        if not overwrite:
            raise ValueError(
                f"{root} holds another synthetic data set: {found} instead of {requested}. "
                "Give another folder, or --overwrite to replace it"
            )
    elif root.is_dir() and any(root.iterdir()) and not (root / _UNFINISHED).exists():
        raise ValueError(f"{root} holds files that are not a synthetic data set; give an empty or a new folder")
    root.mkdir(parents=True, exist_ok=True)
    (root / _UNFINISHED).touch()
    marker.unlink(missing_ok=True)
    for folder in _FOLDERS:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
    for split in _SPLITS:
        (root / f"{split}.txt").unlink(missing_ok=True)
    return True


def _difficulty(value: float | str) -> float:
    try:
        number = DIFFICULTIES[value] if value in DIFFICULTIES else float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 2:
        raise ValueError(f"difficulty {value!r}: expected easy, normal, hard or a number from 0 to 2")
    return number


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = Parser("Write the synthetic data set.", prog="python -m dataset.synthetic")
    parser.add_argument("--root", required=True, help="folder to write to")
    parser.add_argument("--num-train", type=int, default=400, help="training scenes (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=60, help="validation scenes (default: %(default)s)")
    parser.add_argument("--num-test", type=int, default=60, help="test scenes (default: %(default)s)")
    size = {"nargs": 2, "default": (96, 160), "metavar": ("H", "W")}
    parser.add_argument("--size", type=int, **size, help="pixels (default: 96 160)")
    parser.add_argument("--seed", type=int, default=0, help="scenes drawn (default: %(default)s)")
    parser.add_argument("--difficulty", default="normal", help="easy, normal, hard or 0 to 2 (default: %(default)s)")
    parser.add_argument(
        "--closeness", type=float, default=0.0, help="0 to 1: objects nearer and thicker (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a synthetic data set of other parameters")
    args = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    written = write_synthetic(**vars(args))
    scenes = args.num_train + args.num_val + args.num_test
    print(f"{'wrote' if written else 'already there:'} {scenes} scenes of {args.size[0]}x{args.size[1]} in {args.root}")
    return 0
