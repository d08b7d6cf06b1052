"""Segmentation metrics from one confusion matrix over the whole data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.distributed import all_reduce_sum


@dataclass(frozen=True)
class SegMetrics:
    """Figures of one evaluation, as fractions from 0 to 1; K classes.

    A ratio whose denominator is 0 counts as 0. Methods that take class names raise ValueError for other than K names.

    Attributes:
        miou: mean IoU over ALL K classes, one that occurs nowhere counting 0 (what published tables print).
        miou_present: mean IoU over the classes that occur in the truth.
        macc: mean accuracy (recall) over the classes that occur in the truth.
        pixel_accuracy: correct pixels / pixels that are not ignored.
        iou: intersection over union of each class, float64 (K,).
        class_accuracy: recall of each class, float64 (K,).
        matrix: pixels, int64 (K, K); rows = truth, columns = prediction.
        boundary_iou: boundary IoU of each class (`utils.boundary`), float64 (K,), or None where it was not asked for.
    """

    miou: float
    miou_present: float
    macc: float
    pixel_accuracy: float
    iou: np.ndarray
    class_accuracy: np.ndarray
    matrix: np.ndarray
    boundary_iou: np.ndarray | None = None

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> "SegMetrics":
        """Computes all figures from pixel counts (K, K), rows = truth."""
        hits = np.diag(matrix)
        truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
        iou = ratio(hits, truth + predicted - hits)
        accuracy = ratio(hits, truth)
        return cls(
            miou=float(iou.mean()),
            miou_present=_mean_where(truth > 0, iou),
            macc=_mean_where(truth > 0, accuracy),
            pixel_accuracy=float(ratio(hits.sum(), truth.sum())),
            iou=iou,
            class_accuracy=accuracy,
            matrix=matrix,
        )

    @property
    def num_pixels(self) -> int:
        """Pixels counted, without ignored ones."""
        return int(self.matrix.sum())

    def describe_miou(self) -> str:
        """mIoU in words; where some classes do not occur in the truth, what it is without them."""
        present, count = int((self.matrix.sum(axis=1) > 0).sum()), len(self.matrix)
        if present == count:
            return f"mIoU {self.miou:.2%}"
        return f"mIoU {self.miou:.2%} of all {count} classes ({self.miou_present:.2%} of the {present} that occur)"

    @property
    def boundary_miou(self) -> float:
        """Mean boundary IoU over all classes, one that occurs nowhere counting 0, where it was asked for."""
        return float(self.boundary_iou.mean())

    @property
    def boundary_miou_present(self) -> float:
        """Mean boundary IoU over the classes that occur in the truth, where it was asked for."""
        return _mean_where(self.matrix.sum(axis=1) > 0, self.boundary_iou)

    def best_constant_miou(self) -> float:
        """mIoU over all classes that the best prediction of one class everywhere would reach on this truth."""
        return float(ratio(self.matrix.sum(axis=1).max(), self.matrix.sum())) / len(self.matrix)

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Everything but the matrix as built-in types, for a JSON file."""
        header, *rows = self.to_rows(class_names)
        figures = ["miou", "miou_present", "macc", "pixel_accuracy", "num_pixels"]
        if self.boundary_iou is not None:
            figures += ["boundary_miou", "boundary_miou_present"]
        keys = ["name", *header[2:]]
        classes = [dict(zip(keys, row[1:], strict=True)) for row in rows]
        return {name: getattr(self, name) for name in figures} | {"classes": classes}

    def to_rows(self, class_names: Sequence[str]) -> list[list[Any]]:
        """Rows for csv.writer: a header, then (id, class, iou, accuracy, pixels in the truth) of each class.

        Boundary IoU, where it was asked for, is one more column.
        """
        if len(class_names) != len(self.iou):
            raise ValueError(f"got {len(class_names)} class names for {len(self.iou)} classes: give one name per class")
        values = {"iou": self.iou, "accuracy": self.class_accuracy, "pixels": self.matrix.sum(axis=1)}
        if self.boundary_iou is not None:
            values["boundary_iou"] = self.boundary_iou
        columns = [range(len(class_names)), class_names, *(value.tolist() for value in values.values())]
        return [["id", "class", *values], *map(list, zip(*columns, strict=True))]

    def format_table(self, class_names: Sequence[str]) -> str:
        """The per-class table and the summary in percent, aligned, for the screen and the log."""
        rows = self.to_rows(class_names)[1:]
        width = max(len(name) for name in [*class_names, "class"])
        total = max(self.num_pixels, 1)
        boundary = self.boundary_iou is not None
        lines = [f" id  {'class':<{width}}     IoU     Acc  % of truth" + "  boundary IoU" * boundary]
        for index, name, iou, accuracy, pixels, *more in rows:
            if pixels:
                figures = f"{100 * iou:7.2f} {100 * accuracy:7.2f} {100 * pixels / total:11.3f}"
            else:  # nothing to recall; IoU is 0 whether or not it was predicted
                figures = f"{100 * iou:7.2f} {'-':>7} {'absent':>11}"
            lines.append(f"{index:3d}  {name:<{width}} {figures}" + "".join(f"{100 * value:14.2f}" for value in more))
        occurring = sum(row[4] > 0 for row in rows)
        lines += [
            "",
            f"mIoU {100 * self.miou:.2f} (all {len(rows)} classes, an absent one counts 0)",
            f"mIoU {100 * self.miou_present:.2f} (the {occurring} classes that occur)",
            f"mAcc {100 * self.macc:.2f}   pixel accuracy {100 * self.pixel_accuracy:.2f}",
        ]
        if boundary:
            lines.append(
                f"boundary IoU {100 * self.boundary_miou:.2f} (all {len(rows)} classes), "
                f"{100 * self.boundary_miou_present:.2f} (the {occurring} classes that occur)"
            )
        return "\n".join(lines)


class PixelCounts:
    """Counts of pixels, kept on the device without waiting for it.

    Args:
        shape: of the counts.
        device: of the counts, predictions and targets.
    """

    def __init__(self, *shape: int, device: torch.device | str) -> None:
        self._counts = torch.zeros(shape, dtype=torch.int64, device=device)
        self._reduced = False

    def _check(self, prediction: Tensor, target: Tensor) -> None:
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape: resize the "
                "logits to the target's size before argmax"
            )
        for name, tensor in (("prediction", prediction), ("target", target)):
            if tensor.is_floating_point() or tensor.is_complex():
                raise ValueError(f"the {name} is {tensor.dtype}: expected class ids of an integer type")
        if self._reduced:
            raise RuntimeError("update after reduce would count the other processes' pixels twice: start a new count")

    def reduce(self) -> None:
        """Sums the counts over all processes, once: every process has to call it."""
        if not self._reduced:
            self._counts = all_reduce_sum(self._counts)
            self._reduced = True


class ConfusionMatrix(PixelCounts):
    """Counts of (truth, prediction) pairs.

    Args:
        num_classes: K.
        device: of the counts, predictions and targets.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: expected at least 1")
        # K*K pairs, then one bin for ignored pixels and one for values that are no class.
        super().__init__(num_classes**2 + 2, device=device)
        self.num_classes = num_classes

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds the pixels of some images.

        Args:
            prediction: class ids, any integer type, (N, H, W) or any other shape.
            target: class ids or 255, which is not counted, any integer type, of the same shape.

        Raises:
            ValueError: the shapes differ, or one of the two holds no integers.
        """
        self._check(prediction, target)
        classes = self.num_classes
        prediction, target = prediction.reshape(-1).long(), target.reshape(-1).long()
        index = target * classes + prediction
        legal = (target >= 0) & (target < classes) & (prediction >= 0) & (prediction < classes)
        index = torch.where(legal, index, classes**2 + 1)
        index = torch.where(target == 255, classes**2, index)  # no boolean indexing: it waits for the device
        self._counts += histogram(index, len(self._counts))

    def compute(self) -> SegMetrics:
        """The metrics of what was counted so far (in all processes after `reduce`, in this one before).

        Raises:
            ValueError: a target or prediction held a value that is neither a class nor the ignored one.
        """
        counts = self._counts.cpu().numpy()
        if counts[-1]:
            raise ValueError(
                f"{counts[-1]:,} target or predicted pixels hold values outside 0..{self.num_classes - 1} that are not "
                "the ignored one either: check num_classes and the data set's label map"
            )
        return SegMetrics.from_matrix(counts[:-2].reshape(self.num_classes, self.num_classes).copy())


def histogram(index: Tensor, bins: int) -> Tensor:
    """How often each value of `index` (P,), within 0..bins-1, occurs: int64 (bins,)."""
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=bins)
    return _histogram_by_adding(index, bins)  # elsewhere bincount waits for the device to learn the largest value


def _histogram_by_adding(index: Tensor, bins: int) -> Tensor:
    return torch.zeros(bins, dtype=torch.int64, device=index.device).scatter_add_(0, index, torch.ones_like(index))


def _mean_where(chosen: np.ndarray, values: np.ndarray) -> float:
    return float(values[chosen].mean()) if chosen.any() else 0.0


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator in float64, 0 where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)
