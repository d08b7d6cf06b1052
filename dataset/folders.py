"""Finds the images and masks of a folder without list files, by the names of folders and files."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataset.reading.files import IMAGE_SUFFIXES

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_FOLDERS = {"images", "image", "img", "imgs", "img_dir", "jpegimages", "leftimg8bit"}
MASK_FOLDERS = {
    "labels", "label", "masks", "mask", "annotations", "annotation", "ann_dir", "annot", "segmentationclass", "gtfine",
}  # fmt: skip
_SPLIT, _KIND = (f"({'|'.join(sorted(words))})" for words in (SPLIT_NAMES, IMAGE_FOLDERS | MASK_FOLDERS))
_JOINED = re.compile(rf"{_SPLIT}[_-]?{_KIND}|{_KIND}[_-]?{_SPLIT}")  # train_labels, labels_train
_IMAGE_END = "_leftimg8bit"
_MASK_END = re.compile(r"(_gtfine)?(_mask|_masks|_label|_labels|_l|_gt|_seg|_labelids|_labeltrainids)", re.IGNORECASE)
LAYOUTS = """\
  without list files, images and masks in folders with usual names, such as
      ROOT/images/{train,val}/a.jpg and ROOT/masks/{train,val}/a.png, or a_mask.png
      ROOT/{train,val}/images/a.jpg and ROOT/{train,val}/labels/a.png
      ROOT/{train,val}/a.jpg and ROOT/{train,val}_labels/a_L.png
      ROOT/images/a.jpg and ROOT/masks/a.png, with --val-fraction"""
SHOWN = 5

Key = tuple[str, tuple[str, ...], str]  # split, folders that say nothing, stem without the usual endings


@dataclass(frozen=True)
class Place:
    """What a file's folders say.

    Attributes:
        split: train, val or test; "" where no folder says it.
        kind: "image", "mask", or "" where no folder says it.
        pattern: the folders that say it, with {split} in place of the split.
        rest: the other folders.
    """

    split: str
    kind: str
    pattern: str
    rest: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The pairs of every split, (image, mask or None) relative to the root, and what was recognised, as text."""

    pairs: dict[str, list[tuple[str, str | None]]]
    notes: tuple[str, ...]


def find_pairs(root: Path) -> Found:
    """Pairs images and masks below a folder.

    Raises:
        FileNotFoundError: there are no images, or none that has a mask.
        ValueError: several folders or files could be meant; lists them.
    """
    files = sorted(_files_below(root))
    places = {folder: read_place(folder.parts) for folder in {file.parent for file in files}}
    kinds = {place.kind for place in places.values()}
    by_kind: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        by_kind[places[file.parent].kind].append(file)
    left: list[PurePosixPath] = []
    if any(places[file.parent].split for file in by_kind[""]):  # without kind, the folder of a split says enough
        left = [file for file in by_kind[""] if not places[file.parent].split]
        by_kind[""] = [file for file in by_kind[""] if places[file.parent].split]
    images = by_kind["image"] or by_kind[""]
    left += by_kind[""] if by_kind["image"] else []
    if "mask" in kinds:
        masks = by_kind["mask"]
    else:  # beside each other: masks have names of their own
        images, masks = _beside(images)
    if not images:
        raise FileNotFoundError(f"{root / 'train.txt'} does not exist, and there is no image in {root} or below")
    one_pattern("images", images, places)
    if masks:
        one_pattern("masks", masks, places)
    by_name = _by_name(images, [_key(file, places, _image_stem(file.stem)) for file in images])
    named = _by_name(masks, [_mask_key(file, places, by_name) for file in masks])
    pairs: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    alone: list[PurePosixPath] = []
    taken = set()
    for key, image in by_name.items():
        mask = named.get(key)
        if mask is not None:
            taken.add(key)
        if mask is None and key[0] != "test":
            alone.append(image)
        else:
            pairs[key[0] or "train"].append((str(image), None if mask is None else str(mask)))
    spare = [mask for key, mask in named.items() if key not in taken]
    pairs = {split: _complete(found) for split, found in pairs.items() if found}
    if not any(mask for found in pairs.values() for _, mask in found):
        raise FileNotFoundError(_nothing_fits(root, images, masks))
    return Found(pairs, tuple(_notes(pairs, places, alone, spare, left)))


def read_place(parts: Sequence[str]) -> Place:
    """What the folders of a path say of the files in it."""
    split, kind, pattern, rest = "", "", [], []
    for part in parts:
        word, joined = part.lower(), _JOINED.fullmatch(part.lower())
        if joined and not (split or kind):
            own = joined[1] or joined[4]
            split, kind = SPLIT_NAMES[own], _kind(joined[2] or joined[3])
            pattern.append(re.sub(re.escape(own), "{split}", part, count=1, flags=re.IGNORECASE))
        elif word in SPLIT_NAMES and not split:
            split = SPLIT_NAMES[word]
            pattern.append("{split}")
        elif _kind(word) and not kind:
            kind = _kind(word)
            pattern.append(part)
        else:
            rest.append(part)
    return Place(split, kind, "/".join(pattern) or ".", tuple(rest))


def _kind(word: str) -> str:
    return "image" if word in IMAGE_FOLDERS else "mask" if word in MASK_FOLDERS else ""


def _files_below(root: Path) -> Iterable[PurePosixPath]:
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = PurePosixPath(Path(place).relative_to(root).as_posix())
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield below / name


def _beside(files: Sequence[PurePosixPath]) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """(images, masks) of folders that hold both: a mask is named like another file, with one of the usual endings."""
    names = {(file.parent, file.stem) for file in files}
    masks = [
        file for file in files if (stem := _mask_stem(file.stem)) != file.stem and (file.parent, stem) in names
    ]  # fmt: skip
    return [file for file in files if file not in set(masks)], masks


def _mask_stem(stem: str) -> str:
    match = re.search(_MASK_END.pattern + "$", stem, re.IGNORECASE)
    return stem[: match.start()] if match and match.start() else stem


def _image_stem(stem: str) -> str:
    return stem[: -len(_IMAGE_END)] if stem.lower().endswith(_IMAGE_END) else stem


def one_pattern(what: str, files: Sequence[PurePosixPath], places: Mapping[PurePosixPath, Place]) -> None:
    """Raises a ValueError, which lists the choices, if the files lie in folders of several patterns."""
    count: dict[str, int] = defaultdict(int)
    for file in files:
        count[places[file.parent].pattern] += 1
    if len(count) > 1:
        choices = ", ".join(f"{pattern} ({number} files)" for pattern, number in sorted(count.items()))
        raise ValueError(
            f"{what} lie in several kinds of folders: {choices}. Say which pairs are meant in train.txt and val.txt, "
            "or move the others out of the folder"
        )


def _key(file: PurePosixPath, places: Mapping[PurePosixPath, Place], stem: str) -> Key:
    place = places[file.parent]
    return place.split, place.rest, stem


def _mask_key(file: PurePosixPath, places: Mapping[PurePosixPath, Place], images: Mapping[Key, PurePosixPath]) -> Key:
    """Of the image with the mask's own name, or else with the name without its ending."""
    same = _key(file, places, file.stem)
    return same if same in images else _key(file, places, _mask_stem(file.stem))


def _by_name(files: Sequence[PurePosixPath], keys: Sequence[Key]) -> dict[Key, PurePosixPath]:
    """Key -> file; a ValueError names files that share one."""
    found: dict[Key, PurePosixPath] = {}
    for file, key in zip(files, keys, strict=True):
        if key in found:
            raise ValueError(
                f"{found[key]} and {file} have one name: expected one file; move the other out of the folder"
            )
        found[key] = file
    return found


def _complete(pairs: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Those with masks, or all where none has one (a test split)."""
    with_masks = [pair for pair in pairs if pair[1] is not None]
    return with_masks or pairs


def _notes(
    pairs: Mapping[str, Sequence[tuple[str, str | None]]],
    places: Mapping[PurePosixPath, Place],
    alone: Sequence[PurePosixPath],
    spare: Sequence[PurePosixPath],
    left: Sequence[PurePosixPath],
) -> Iterable[str]:
    image, mask = next(pair for found in pairs.values() for pair in found if pair[1] is not None)
    folders = [places[PurePosixPath(path).parent].pattern for path in (image, mask)]
    counts = ", ".join(f"{len(found)} {split}" for split, found in pairs.items())
    yield f"recognised: images in {folders[0]}, masks in {folders[1]}, such as {image} with {mask}; {counts}"
    for files, text in (
        (alone, "image(s) have no mask and are left out"),
        (spare, "mask(s) have no image and are left out"),
        (left, "file(s) lie beside these folders and are left out"),
    ):
        if files:
            shown = ", ".join(map(str, files[:SHOWN])) + (", ..." if len(files) > SHOWN else "")
            yield f"WARNING: {len(files)} {text}: {shown}"


def _nothing_fits(root: Path, images: Sequence[PurePosixPath], masks: Sequence[PurePosixPath]) -> str:
    if not masks:
        return f"{len(images)} images in {root}, such as {images[0]}, and no mask was recognised"
    return (
        f"{len(images)} images and {len(masks)} masks in {root}, and no image has a mask of its name: images are named "
        f"{', '.join(map(str, images[:3]))}, masks {', '.join(map(str, masks[:3]))}"
    )


def held_out(pairs: Sequence[tuple[str, str | None]], fraction: float) -> list[bool]:
    """Which pairs validate: about this fraction, by the names of the images alone, at least one of each kind."""
    names = [PurePosixPath(image).with_suffix("").as_posix() for image, _ in pairs]
    shares = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names]
    chosen = [share < fraction for share in shares]
    if not any(chosen):
        chosen[shares.index(min(shares))] = True
    if all(chosen):
        chosen[shares.index(max(shares))] = False
    return chosen
