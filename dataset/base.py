"""The base class of all data sets: pairs of files, label maps, the check before training starts."""

import os
from abc import abstractmethod
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from dataset.loading.bad_samples import check_samples
from dataset.loading.samplers import evenly_spaced
from dataset.prepared.cache import DecodedCache, is_cache
from dataset.reading.files import (
    NAMES_SHOWN,
    PathList,
    missing_files,
    read_image,
    read_image_top,
    read_mask,
    read_text_lines,
    split_list_line,
)

VOID = 255  # train id of pixels that count nowhere
ILLEGAL = 254  # entry of a label table for values that a mask must not hold
MAX_CLASSES = 254

Pair = tuple[str, str | None]  # (image, mask), relative to the root or absolute; no mask: None


class SegmentationDataset(Dataset):
    """Images with label maps in train ids.

    A data set is a subclass that defines its classes, palette, label map and paths; see the class attributes and
    `pairs`. Every path is checked for existence when it is built; contents are checked when they are read
    (`check_samples` reads some in advance). Where the folder is a decoded cache (`dataset.prepared`), samples are
    read from it; paths and root remain those of the source.

    Attributes:
        name: name under which the data set is registered.
        split: train, val or test.
        root: the folder.
        classes: class names, by train id.
        palette: (r, g, b) of each class.
        num_classes: K, at most 254.
        label_ids: the value that stands for each train id in mask files.
        label_table: train id of every mask value, uint8 (256,); 254 where the value is illegal.
        cache: the decoded cache that samples are read from; None: the files themselves.
        image_paths: absolute paths.
        mask_paths: absolute paths, or None where the split has no masks.
    """

    NAME: str
    CLASSES: tuple[str, ...] = ()
    PALETTE: tuple[tuple[int, int, int], ...] = ()
    LABEL_IDS: tuple[int, ...] | None = None  # mask value of each class; None: the class numbers themselves
    VOID_VALUES: tuple[int, ...] = ()  # further legal mask values, all ignored; 255 is always one
    SPLITS: tuple[str, ...] = ("train", "val")
    FOLDERS: tuple[str, ...] = ()  # usual names of the root, searched for when a folder above it is given
    MARKER: str = ""  # an entry that every root has
    LAYOUT: str = ""  # the expected folders, for messages

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        list_file: str | None = None,
        ignore_label: int | None = None,
        max_missing: int | None = 0,
    ) -> None:
        """Lists the files and checks that they exist; see `build_dataset`. `max_missing` None allows any number."""
        self.name, self.split = self.NAME, split
        folder = Path(root).expanduser().absolute()
        self.cache = DecodedCache(folder, self.NAME, split) if is_cache(folder) else None
        if self.cache is not None:
            self._use_cache(self.cache, list_file, ignore_label)
            return
        self.root = self._find_root(folder)
        if split not in ("train", "val", "test") or (list_file is None and split not in self.splits()):
            raise ValueError(f"data set {self.name} has no split {split!r}; it has {', '.join(self.splits())}")
        try:
            self.classes, self.palette = self.read_classes()
            pairs = self.pairs() if list_file is None else self.read_list(Path(list_file).expanduser())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data set {self.name}, split {split}: {error}\n{self._layout()}") from error
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(f"data set {self.name} has {len(self.classes)} classes; at most {MAX_CLASSES} fit")
        self._set_labels(ignore_label)
        self._set_paths(pairs, list_file, max_missing)

    @abstractmethod
    def pairs(self) -> list[Pair]:
        """The files of `self.split` under `self.root`, in a fixed order."""

    def read_classes(self) -> tuple[list[str], list[tuple[int, int, int]]]:
        """Names and colours of the classes."""
        return list(self.CLASSES), list(self.PALETTE)

    def splits(self) -> tuple[str, ...]:
        """The splits that exist."""
        return self.SPLITS

    def pair_of_words(self, words: list[str]) -> Pair:
        """The pair of one line of a list file; data sets whose lists hold bare names override this."""
        return words[0], words[1] if len(words) == 2 else None

    def read_list(self, path: Path) -> list[Pair]:
        """Reads a list file of "image mask" lines ("image" alone in the test split).

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is empty, not text, or has a line that is not one or two paths.
        """
        pairs = []
        for number, line in read_text_lines(path):
            try:
                pairs.append(self.pair_of_words(split_list_line(line, lambda name: self._is_file(self._resolve(name)))))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if pairs[-1][1] is None and self.split != "test":
                raise ValueError(f"{path}, line {number}: no mask for {pairs[-1][0]!r}; expected 'image mask' lines")
        if any((mask is None) != (pairs[0][1] is None) for _, mask in pairs):
            raise ValueError(f"{path}: some lines have a mask and some do not; give a mask in all lines or in none")
        return pairs

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads one sample.

        Returns:
            RGB image, uint8 (H, W, 3), and train ids with 255 for void, uint8 (H, W), or None without masks.

        Raises:
            ValueError: a file cannot be decoded, the sizes differ, or the mask holds an illegal value.
            FileNotFoundError: a file has been removed since the check.
        """
        if self.cache is not None:
            return self.cache.read(index)
        image = read_image(self.image_paths[index])
        if self.mask_paths is None:
            return image, None
        mask_path = self.mask_paths[index]
        mask = read_mask(mask_path)
        self.check_size(index, image.shape[:2], mask.shape)
        return image, self.to_train_ids(mask, mask_path)

    def view_mask(self, index: int) -> np.ndarray:
        """The train ids of a sample, to crop from; of a decoded cache, only the pages that are used are read."""
        if self.cache is not None:
            return self.cache.view(index)[1]
        path = self.mask_paths[index]
        return self.to_train_ids(read_mask(path), path)

    def view_image(self, index: int, rows: int, size: tuple[int, int]) -> np.ndarray:
        """At least the first `rows` rows of a sample's image, to crop from; `size` is its mask's (height, width)."""
        if self.cache is not None:
            return self.cache.view(index)[0]
        image, image_size = read_image_top(self.image_paths[index], rows)
        self.check_size(index, image_size, size)
        return image

    def check_size(self, index: int, image: tuple[int, int], mask: tuple[int, int]) -> None:
        """Compares the (height, width) of a sample's image and of its mask; ValueError where they differ."""
        if mask != image:
            raise ValueError(
                f"sizes (height x width) differ: image {self.image_paths[index]} is {image[0]}x{image[1]}, "
                f"mask {self.mask_paths[index]} is {mask[0]}x{mask[1]}"
            )

    def to_train_ids(self, mask: np.ndarray, path: str) -> np.ndarray:
        """Maps a mask, (H, W), to train ids; ValueError, which names `path`, for neither a class nor void."""
        if mask.dtype == np.uint8:
            train_ids = cv2.LUT(mask, self.label_table).reshape(mask.shape)
            if not (train_ids == ILLEGAL).any():
                return train_ids
        elif 0 <= mask.min() and mask.max() <= 255:
            return self.to_train_ids(mask.astype(np.uint8), path)
        values, counts = np.unique(mask, return_counts=True)
        bad = np.array([not 0 <= v <= 255 or self.label_table[v] == ILLEGAL for v in values.tolist()])
        shown = ", ".join(map(str, values[bad][:10])) + (", ..." if bad.sum() > 10 else "")
        legal = f"{_ranges(self.label_table < ILLEGAL)}, void {_ranges(self.label_table == VOID)}"
        raise ValueError(
            f"mask {path} holds {bad.sum()} illegal value(s): {shown} ({counts[bad].sum()} pixels). Legal for "
            f"{self.name}: {legal}. If such a value marks ignored pixels, pass it as --ignore-label"
        )

    def check_samples(self, count: int = 50, allowed: int = 0) -> None:
        """Reads `count` evenly spaced samples, including the first; errors as for `bad_samples.check_samples`."""
        check_samples(self.__getitem__, self.image_paths, evenly_spaced(len(self), count), allowed)

    def _find_root(self, root: Path) -> Path:
        if not root.is_dir():
            raise FileNotFoundError(f"the data folder {root} does not exist\n{self._layout()}")
        candidates = [root, *(root / folder for folder in self.FOLDERS)]
        return next((folder for folder in candidates if (folder / self.MARKER).exists()), root)

    def _layout(self) -> str:
        return f"expected layout of {self.name}:\n{self.LAYOUT}"

    def _resolve(self, path: str) -> str:
        """Absolute path of a list's entry. Common lists write "/JPEGImages/x.jpg" for paths below the root."""
        if path.startswith("/"):
            first = path.strip("/").split("/")[0]
            if self._is_file(path) or (self.cache is None and not (first and (self.root / first).exists())):
                return path
            path = path.lstrip("/")
        return os.path.join(self.root, path)

    def _is_file(self, path: str) -> bool:
        return os.path.isfile(path) if self.cache is None else os.path.normpath(path) in self.cache.index_of

    def _set_labels(self, ignore_label: int | None) -> None:
        self.num_classes = len(self.classes)
        self.label_ids = list(range(self.num_classes) if self.LABEL_IDS is None else self.LABEL_IDS)
        self.label_table = np.full(256, ILLEGAL, dtype=np.uint8)
        self.label_table[self.label_ids] = np.arange(self.num_classes)
        self.label_table[[*self.VOID_VALUES, VOID]] = VOID
        if ignore_label is not None and ignore_label != -1:
            if not 0 <= ignore_label <= 255:
                raise ValueError(f"ignore label {ignore_label}: expected a mask value from 0 to 255, or -1 for 255")
            self.label_table[ignore_label] = VOID

    def _use_cache(self, cache: DecodedCache, list_file: str | None, ignore_label: int | None) -> None:
        """Takes everything from a decoded cache; a list selects samples of it."""
        self.root, self.classes, self.palette = cache.root, cache.classes, cache.palette
        if self.CLASSES and self.classes != list(self.CLASSES):
            raise ValueError(f"the decoded cache {cache.folder} has other classes than {self.name}: {self.classes}")
        self._set_labels(ignore_label)
        cache.check_label_table(self.label_table)
        if list_file is not None:
            pairs = self.read_list(Path(list_file).expanduser())
            cache.select([(self._resolve(image), mask and self._resolve(mask)) for image, mask in pairs], list_file)
        self.image_paths, self.mask_paths = cache.image_paths, cache.mask_paths

    def _set_paths(self, pairs: list[Pair], list_file: str | None, max_missing: int | None) -> None:
        if not pairs:
            raise ValueError(f"data set {self.name}, split {self.split}: no image under {self.root}\n{self._layout()}")
        images = [self._resolve(image) for image, _ in pairs]
        masks = [self._resolve(mask) for _, mask in pairs if mask is not None]
        missing = [] if max_missing is None else missing_files(images + masks)
        if len(missing) > (max_missing or 0):
            names = "".join(f"\n  {name}" for name in missing[:NAMES_SHOWN])
            source = f" named in {list_file}" if list_file else ""
            raise FileNotFoundError(
                f"data set {self.name}, split {self.split}: {len(missing)} of {len(images) + len(masks)} files{source} "
                f"are missing, first:{names}\n{self._layout()}"
            )
        self.image_paths = PathList(images)
        self.mask_paths = PathList(masks) if masks else None


def _ranges(chosen: np.ndarray) -> str:
    """ "0-10, 255" and the like, for a flag of every value."""
    values = np.flatnonzero(chosen)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
