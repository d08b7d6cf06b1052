"""Predictions on disk: masks, blends with the image, and panels, named after the images."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from dataset.base import SegmentationDataset
from engine.evaluation.validation_panels import to_picture
from utils.panels import prediction_panel
from utils.types import Batch
from utils.visualize import blend, colorize, save_indexed_png


class PredictionWriter:
    """Writes the prediction of every image: a hook of `evaluate`.

    Args:
        dataset: gives names and colours of the classes, the files' names, and whether there is truth to compare
            with (`mask_paths`).
        folder: `masks/`, `blends/` and `panels/` are made in it.
        masks: write palette PNG, one label a pixel.
        blends: write the image with the prediction's colours over it.
        panels: write image, truth, prediction and errors side by side; image and prediction where there is no truth.
        names: what the files are called, without ending and by position, possibly with folders; `prediction_names`
            where None.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        folder: Path,
        masks: bool = False,
        blends: bool = False,
        panels: bool = False,
        names: Sequence[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.names = prediction_names(dataset) if names is None else names
        self.masks = folder / "masks" if masks else None
        self.blends = folder / "blends" if blends else None
        self.panels = folder / "panels" if panels else None

    def prepare(self) -> None:
        """Makes the folders, so that one that cannot be written is met before the work."""
        for folder in (self.masks, self.blends, self.panels):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, batch: Batch, prediction: Tensor) -> None:
        """Writes a batch.

        Args:
            batch: as the loaders give it, on the CPU.
            prediction: labels, uint8, (N, H, W), on the CPU.
        """
        for index, position in enumerate(batch.positions.tolist()):
            labels = prediction[index].numpy()  # (H, W)
            image = to_picture(batch.images[index])
            truth = None if self.dataset.mask_paths is None else batch.target[index].numpy()
            name, palette = self.names[position], self.dataset.palette
            if self.masks is not None:
                save_indexed_png(labels, palette, _file(self.masks, name))
            if self.blends is not None:
                Image.fromarray(blend(image, colorize(labels, palette))).save(_file(self.blends, name))
            if self.panels is not None:
                picture = prediction_panel(image, labels, self.dataset.classes, palette, truth)
                Image.fromarray(picture).save(_file(self.panels, name))


def _file(folder: Path, name: str) -> Path:
    """The file of an image; its name, which may come from a list of somebody else's, must not lead out of the folder.

    Raises:
        ValueError: it would.
    """
    path = folder / f"{name}.png"
    if Path(name).is_absolute() or ".." in path.relative_to(folder).parts:
        raise ValueError(f"the prediction of {name!r} would be written outside {folder}: rename the image")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def prediction_names(dataset: SegmentationDataset) -> list[str]:
    """A file name without ending for every image: its own where all differ, else its path with "__" for "/".

    Images that differ in their endings alone keep them.
    """
    paths = [Path(path) for path in dataset.image_paths]
    names = [path.stem for path in paths]
    if _all_differ(names):
        return names
    paths = [path.relative_to(dataset.root if path.is_relative_to(dataset.root) else path.anchor) for path in paths]
    names = ["__".join(path.with_suffix("").parts) for path in paths]
    return names if _all_differ(names) else ["__".join(path.parts) for path in paths]


def _all_differ(names: Sequence[str]) -> bool:
    """Also on file systems that take "A" for "a"."""
    return len({name.casefold() for name in names}) == len(names)
