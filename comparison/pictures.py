"""The same images with the prediction of every method, small enough to be embedded in the report."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from comparison.jobs import TEACHER
from comparison.records import FINISHED
from comparison.runner import EVALUATION
from dataset.base import SegmentationDataset
from engine.evaluation.prediction_writer import prediction_names
from engine.evaluation.validation_panels import legend
from utils.panels import panel
from utils.visualize import Color, colorize

MAX_SIDE = 512  # pixels
PICTURES = "pictures"


@dataclass(frozen=True)
class Panel:
    """One image: its name, (title, data URI) of every cell, and the classes that occur in it."""

    name: str
    cells: list[tuple[str, str]]
    classes: list[tuple[str, Color]]


def make_panels(
    dataset: SegmentationDataset, summary: dict[str, Any], output: Path, count: int
) -> tuple[list[Panel], int | None]:
    """Image, truth, every method's prediction and the teacher's, of `count` images spread evenly over the split.

    Each is also written to a PNG file in the folder `PICTURES` of the comparison's folder `output`.

    Returns:
        The panels, and the seed of the runs that they show; ([], None) without predictions.
    """
    folders, seed = _mask_folders(summary, output)
    if not folders or count == 0:
        return [], None
    pictures = output / PICTURES
    pictures.mkdir(exist_ok=True)
    names = prediction_names(dataset)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    panels = []
    for index in chosen:
        image, truth = dataset[index]
        cells, labels = [("image", picture_uri(image))], []
        maps = [] if truth is None else [("truth", truth)]
        maps += [(title, np.asarray(Image.open(folder / f"{names[index]}.png"))) for title, folder in folders]
        for title, mask in maps:
            labels.append(mask)
            cells.append((title, mask_uri(mask, dataset.palette)))
        classes = legend(dataset, *labels)
        panels.append(Panel(names[index], cells, classes))
        parts = [("image", image), *((title, colorize(mask, dataset.palette)) for title, mask in maps)]
        Image.fromarray(panel(parts, legend=classes)).save(pictures / f"{names[index]}.png")
    return panels, seed


def _mask_folders(summary: dict[str, Any], output: Path) -> tuple[list[tuple[str, Path]], int | None]:
    """(title, folder of masks) of the runs with the first seed, the only ones that keep masks."""
    seed = summary["runs"][0]["seed"]
    folders = [
        (run["method"], Path(run["folder"]) / EVALUATION / "masks")
        for run in summary["runs"]
        if run["status"] == FINISHED and run["seed"] == seed
    ]
    if folders and summary["teacher"] is not None and summary["teacher"]["status"] == FINISHED:
        folders.append((TEACHER, output / TEACHER / EVALUATION / "masks"))
    return folders, seed


def picture_uri(picture: np.ndarray) -> str:
    """A photograph, uint8 (H, W, 3), at most 512 pixels a side, as a data URI."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    small = _reduced(image, Image.Resampling.LANCZOS)
    if small is image:  # it is enlarged, which would make JPEG blocks visible
        return _uri(image, "png", optimize=True)
    return _uri(small, "jpeg", quality=88)


def mask_uri(mask: np.ndarray, palette: Sequence[Color]) -> str:
    """Class ids, uint8 (H, W), at most 512 pixels a side, as the data URI of a PNG in exact colours; void is black."""
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette([int(channel) for color in palette for channel in color] + [0] * (768 - 3 * len(palette)))
    return _uri(_reduced(image, Image.Resampling.NEAREST), "png", optimize=True)


def _reduced(image: Image.Image, method: Image.Resampling) -> Image.Image:
    scale = MAX_SIDE / max(image.size)
    return image if scale >= 1 else image.resize([max(1, round(side * scale)) for side in image.size], method)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    data = io.BytesIO()
    image.save(data, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
