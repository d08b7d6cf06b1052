"""The base class of all data sets: pairs of files, label maps, the check before training starts."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from dataset.classes import ClassTable
from dataset.config import ReadingConfig
from dataset.label_counts import LabelCounts
from dataset.labels import MAX_CLASSES, LabelMap
from dataset.loading.samplers import evenly_spaced
from dataset.prepared.cache import DecodedCache, is_cache
from dataset.reading.files import NAMES_SHOWN, PathList, missing_files, read_text_lines, split_list_line
from dataset.reading.images import read_header, read_image, read_image_top, read_mask, size_as_read
from dataset.survey import check_samples
from utils.types import UNLABELLED

Pair = tuple[str, str | None]  # (image, mask), relative to the root or absolute; no mask: None


class SegmentationDataset(Dataset):
    """Images with label maps in train ids.

    A data set is a subclass that defines its classes, palette, label map and paths; see the class attributes and
    `pairs`. Every path is checked for existence when it is built; contents are checked when they are read
    (`dataset.check.start` reads some in advance). Where the folder is a decoded cache (`dataset.prepared`), samples are
    read from it; paths and root remain those of the source.

    Attributes:
        name: name under which the data set is registered.
        split: train, val or test.
        root: the folder.
        classes: class names, by train id.
        palette: (r, g, b) of each class.
        num_classes: K, at most 253.
        reading: how the files are read.
        labels: what values and colours of the masks stand for.
        label_ids: the first value that stands for each train id in mask files.
        notes: what was recognised of the folder where it has no lists, as text.
        cache: the decoded cache that samples are read from; None: the files themselves.
        image_paths: absolute paths.
        mask_paths: absolute paths, "" for an image without a mask; None where the split has no masks.
        num_unlabelled: training images without a mask, which come last.
    """

    NAME: str
    CLASSES: tuple[str, ...] = ()
    PALETTE: tuple[tuple[int, int, int], ...] = ()
    LABEL_IDS: tuple[int, ...] | None = None  # mask value of each class; None: the class numbers themselves
    VOID_VALUES: tuple[int, ...] = ()  # further legal mask values, all ignored, beside 255
    VOID_COLORS: tuple[tuple[int, int, int], ...] = ()  # the same of coloured masks, whose classes have PALETTE's
    SPLITS: tuple[str, ...] = ("train", "val")
    FOLDERS: tuple[str, ...] = ()  # usual names of the root, searched for when a folder above it is given
    MARKER: str = ""  # an entry that every root has
    LAYOUT: str = ""  # the expected folders, for messages

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        list_file: str | None = None,
        reading: ReadingConfig | None = None,
        max_missing: int | None = 0,
    ) -> None:
        """Lists the files and checks that they exist; see `build_dataset`. `max_missing` None allows any number."""
        self.name, self.split, self.notes = self.NAME, split, ()
        self.reading = reading or ReadingConfig()
        folder = Path(root).expanduser().absolute()
        self.cache = DecodedCache(folder, self.NAME, split) if is_cache(folder) else None
        if self.cache is not None:
            self._use_cache(self.cache, list_file)
            return
        self.root = self._find_root(folder)
        try:
            if split not in ("train", "val", "test") or (list_file is None and split not in self.splits()):
                raise ValueError(f"data set {self.name} has no split {split!r}; it has {', '.join(self.splits())}")
            table = self.read_classes()
            pairs = self.pairs() if list_file is None else self.read_list(Path(list_file).expanduser())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data set {self.name}, split {split}: {error}\n{self._layout()}") from error
        if len(table.names) > MAX_CLASSES:
            raise ValueError(f"data set {self.name} has {len(table.names)} classes; at most {MAX_CLASSES} fit")
        self._set_labels(table.label_map(self.reading), table.palette())
        self._set_paths(pairs, list_file, max_missing)

    @abstractmethod
    def pairs(self) -> list[Pair]:
        """The files of `self.split` under `self.root`, in a fixed order."""

    def read_classes(self) -> ClassTable:
        """Names, colours and mask values of the classes."""
        values = [[]] * len(self.CLASSES) if self.LABEL_IDS is None else [[value] for value in self.LABEL_IDS]
        return ClassTable(
            list(self.CLASSES), list(self.PALETTE), values, list(self.VOID_COLORS), list(self.VOID_VALUES)
        )

    def splits(self) -> tuple[str, ...]:
        """The splits that exist."""
        return self.SPLITS

    def pair_of_words(self, words: list[str]) -> Pair:
        """The pair of one line of a list file; data sets whose lists hold bare names override this."""
        return words[0], words[1] if len(words) == 2 else None

    def read_list(self, path: Path) -> list[Pair]:
        """Reads a list file of "image mask" lines, or "image" alone in the test split and where training has no mask.

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
            if pairs[-1][1] is None and self.split == "val":
                raise ValueError(f"{path}, line {number}: no mask for {pairs[-1][0]!r}; expected 'image mask' lines")
        if self.split == "train":
            return sorted(pairs, key=lambda pair: pair[1] is None)  # stable
        if any((mask is None) != (pairs[0][1] is None) for _, mask in pairs):
            raise ValueError(f"{path}: some lines have a mask and some do not; give a mask in all lines or in none")
        return pairs

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads one sample.

        Returns:
            RGB image, uint8 (H, W, 3), and train ids with 255 for void, uint8 (H, W), or None where the split has no
            masks. An image without one in a split with masks has `UNLABELLED` everywhere.

        Raises:
            ValueError: a file cannot be decoded, the sizes differ, or the mask holds an illegal value.
            FileNotFoundError: a file has been removed since the check.
        """
        if self.is_cached(index):
            return self.cache.read(index)
        if self.mask_paths is None:
            return read_image(self.image_paths[index], self.reading), None
        mask = self.view_mask(index)
        image = read_image(self.image_paths[index], self.reading, mask.shape)
        self.check_size(index, image.shape[:2], mask.shape)
        return image, mask

    def view_mask(self, index: int) -> np.ndarray:
        """The train ids of a sample, to crop from; of a decoded cache, only the pages that are used are read."""
        if self.is_cached(index):
            return self.cache.view(index)[1]
        path = self.mask_paths[index]
        if not path:
            return np.full(size_as_read(read_header(self.image_paths[index]), self.reading), UNLABELLED, dtype=np.uint8)
        return self.labels.train_ids(read_mask(path), path)

    def view_image(self, index: int, rows: int, size: tuple[int, int]) -> np.ndarray:
        """At least the first `rows` rows of a sample's image, to crop from; `size` is its mask's (height, width)."""
        if self.is_cached(index):
            return self.cache.view(index)[0]
        image, image_size = read_image_top(self.image_paths[index], rows, self.reading, size)
        self.check_size(index, image_size, size)
        return image

    def check_size(self, index: int, image: tuple[int, int], mask: tuple[int, int]) -> None:
        """Compares the (height, width) of a sample's image and of its mask; ValueError where they differ."""
        if mask != image:
            raise ValueError(
                f"sizes (height x width) differ: image {self.image_paths[index]} is {image[0]}x{image[1]}, "
                f"mask {self.mask_paths[index]} is {mask[0]}x{mask[1]}"
            )

    def check_samples(
        self, count: int = 50, allowed: int = 0, counts: Callable[[], LabelCounts | None] = lambda: None
    ) -> list[str]:
        """Reads `count` evenly spaced samples, including the first.

        Args:
            count: how many.
            allowed: how many of them may be bad.
            counts: called when they are found usable: the labels of the whole split, or None where they are unknown.

        Returns:
            What should be known before a run starts, a line each.

        Raises:
            ValueError, FileNotFoundError: more than `allowed` samples are bad, with their reasons (the first one's
                where none is allowed); or what the masks hold does not fit the classes.
        """
        return check_samples(self, evenly_spaced(len(self), count), allowed, counts)

    @property
    def num_labelled(self) -> int:
        """Samples with a mask, which come first."""
        return len(self) - self.num_unlabelled

    def add_unlabelled(self, paths: Sequence[str]) -> None:
        """Adds images without masks to a training split."""
        self.image_paths = PathList([*self.image_paths, *paths])
        self.mask_paths = PathList([*(self.mask_paths or [""] * self.num_unlabelled), *[""] * len(paths)])
        self.num_unlabelled += len(paths)

    def is_cached(self, index: int) -> bool:
        """Whether a sample is read from the decoded cache."""
        return self.cache is not None and index < len(self.cache.image_paths)

    def mistaken_ids(self, values: Mapping[int, int]) -> str:
        """What is wrong with masks that hold these values (-> pixels) as a whole; empty where nothing is."""
        return ""

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

    @property
    def label_ids(self) -> list[int]:
        first = {train_id: value for value, train_id in reversed(self.labels.values.items())}
        return [first[train_id] for train_id in range(self.num_classes)]

    def _set_labels(self, labels: LabelMap, palette: list[tuple[int, int, int]]) -> None:
        self.labels, self.classes, self.palette = labels, list(labels.classes), palette
        self.num_classes = len(self.classes)

    def _use_cache(self, cache: DecodedCache, list_file: str | None) -> None:
        """Takes everything from a decoded cache; a list selects samples of it."""
        self.root = cache.root
        if self.CLASSES and list(cache.labels.classes) != list(self.CLASSES):
            own = ", ".join(cache.labels.classes)
            raise ValueError(f"the decoded cache {cache.folder} has other classes than {self.name}: {own}")
        cache.check_reading(self.reading)
        self._set_labels(cache.labels, cache.palette)
        if list_file is not None:
            pairs = self.read_list(Path(list_file).expanduser())
            cache.select([(self._resolve(image), mask and self._resolve(mask)) for image, mask in pairs], list_file)
        self.image_paths, self.mask_paths = cache.image_paths, cache.mask_paths
        self.num_unlabelled = sum(not path for path in cache.mask_paths or ())

    def _set_paths(self, pairs: list[Pair], list_file: str | None, max_missing: int | None) -> None:
        if not pairs:
            raise ValueError(f"data set {self.name}, split {self.split}: no image under {self.root}\n{self._layout()}")
        images = [self._resolve(image) for image, _ in pairs]
        masks = [self._resolve(mask) for _, mask in pairs if mask is not None]
        self.num_unlabelled = len(images) - len(masks) if self.split == "train" else 0
        missing = [] if max_missing is None else missing_files(images + masks)
        if len(missing) > (max_missing or 0):
            names = "".join(f"\n  {name}" for name in missing[:NAMES_SHOWN])
            source = f" named in {list_file}" if list_file else ""
            raise FileNotFoundError(
                f"data set {self.name}, split {self.split}: {len(missing)} of {len(images) + len(masks)} files{source} "
                f"are missing, first:{names}\n{self._layout()}"
            )
        self.image_paths = PathList(images)
        self.mask_paths = PathList([*masks, *[""] * self.num_unlabelled]) if masks else None
