"""Pictures of predictions for TensorBoard and for people."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from dataset.base import SegmentationDataset
from utils.panels import panel
from utils.types import Batch
from utils.visualize import blend, colorize

MAX_CLASSES_IN_LEGEND = 40


def legend(dataset: SegmentationDataset, *label_maps: np.ndarray) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, colour) of the classes that occur in the label maps, at most 40 of them."""
    present = np.unique(np.concatenate([np.unique(labels) for labels in label_maps]))
    classes = [int(k) for k in present if k < dataset.num_classes][:MAX_CLASSES_IN_LEGEND]
    return [(dataset.classes[k], tuple(dataset.palette[k])) for k in classes]


def to_picture(image: Tensor) -> np.ndarray:
    """(3, H, W) uint8 tensor -> (H, W, 3) uint8 array."""
    return image.permute(1, 2, 0).cpu().numpy()


class ValidationPanels:
    """Keeps the first images of a validation and what was predicted for them.

    Args:
        dataset: gives names and colours.
        limit: how many images to keep.
    """

    def __init__(self, dataset: SegmentationDataset, limit: int = 4) -> None:
        self.dataset = dataset
        self.limit = limit
        self._kept: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, batch: Batch, prediction: Tensor) -> None:
        """Takes a batch and its labels (N, H, W), uint8; the hook of `evaluate`."""
        for index in range(len(prediction)):
            if len(self._kept) < self.limit:
                self._kept.append(
                    (
                        int(batch.positions[index]),
                        to_picture(batch.images[index]),
                        batch.target[index].cpu().numpy(),
                        prediction[index].cpu().numpy(),
                    )
                )

    def pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, panel of image | truth | prediction | overlay) of every image kept."""
        for position, image, truth, prediction in self._kept:
            colors = colorize(prediction, self.dataset.palette)
            cells = [
                ("image", image),
                ("truth", colorize(truth, self.dataset.palette)),
                ("prediction", colors),
                ("overlay", blend(image, colors)),
            ]
            yield f"validation/{position}", panel(cells, legend=legend(self.dataset, truth, prediction))
