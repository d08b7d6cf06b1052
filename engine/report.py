"""What an evaluation leaves: tables on screen and in files, a confusion plot, predicted masks."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dataset.base import SegmentationDataset
from engine.pictures import to_picture
from models.base import SegmentationNetwork
from utils.checkpoint import plain
from utils.complexity import count_macs, count_parameters
from utils.metrics import SegMetrics
from utils.types import Batch
from utils.visualize import blend, colorize, confusion_plot, save_indexed_png


class PredictionWriter:
    """Writes the prediction of every image: a hook of `evaluate`.

    Args:
        dataset: gives the files' names and the palette.
        folder: `masks/` and `blends/` are made in it.
    """

    def __init__(self, dataset: SegmentationDataset, folder: Path) -> None:
        self.dataset = dataset
        self.names = prediction_names(dataset)
        self.masks = folder / "masks"
        self.blends = folder / "blends"
        self._write_masks = self._write_blends = False

    def prepare(self, masks: bool, blends: bool) -> None:
        """Makes the folders, so that one that cannot be written is met before the work.

        Args:
            masks: write palette PNG, one label a pixel.
            blends: write the image with the prediction's colours over it.
        """
        self._write_masks, self._write_blends = masks, blends
        for folder, wanted in ((self.masks, masks), (self.blends, blends)):
            if wanted:
                folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, batch: Batch, prediction: Tensor) -> None:
        for index, position in enumerate(batch.positions.tolist()):
            labels = prediction[index].numpy()  # (H, W)
            name = self.names[position]
            if self._write_masks:
                save_indexed_png(labels, self.dataset.palette, self.masks / f"{name}.png")
            if self._write_blends:
                picture = blend(to_picture(batch.images[index]), colorize(labels, self.dataset.palette))
                Image.fromarray(picture).save(self.blends / f"{name}.png")


def prediction_names(dataset: SegmentationDataset) -> list[str]:
    """A file name without ending for every image: its own where all differ, else its path with "__" for "/"."""
    paths = [Path(path) for path in dataset.image_paths]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return ["__".join(path.relative_to(dataset.root).with_suffix("").parts) for path in paths]


def describe_network(network: SegmentationNetwork, dataset: SegmentationDataset) -> dict[str, Any]:
    """Parameters and multiply-adds (at the size of the split's first image)."""
    height, width = dataset[0][0].shape[:2]
    macs = count_macs(network, height, width, need_aux=False)
    return {
        "model": network.model_name,
        "backbone": network.backbone_name,
        "parameters": count_parameters(network),
        "multiply_adds": macs,
        "flops": 2 * macs,
        "input_size": [height, width],
    }


def write_report(
    metrics: SegMetrics,
    dataset: SegmentationDataset,
    network: dict[str, Any],
    args: argparse.Namespace,
    say: Callable[[str], Any] = print,
) -> None:
    """Prints the tables and writes results.json, results.csv and confusion.png into `args.output`."""
    height, width = network["input_size"]
    say(
        f"{network['model']} on {network['backbone']}: {network['parameters'] / 1e6:.2f} M parameters, "
        f"{network['multiply_adds'] / 1e9:.2f} G multiply-adds ({network['flops'] / 1e9:.2f} GFLOPs) "
        f"at {height}x{width}"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    summary = {"arguments": plain(vars(args)), "images": len(dataset), "network": network}
    labelled = metrics.num_pixels > 0
    if labelled:
        summary |= metrics.to_dict(dataset.classes) | {"confusion_matrix": metrics.matrix.tolist()}
    (args.output / "results.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if not labelled:
        say(f"{len(dataset)} images of {dataset.name} {dataset.split} predicted; there are no labels to compare with")
        return
    say(f"{dataset.name} {dataset.split}, {len(dataset)} images\n" + metrics.format_table(dataset.classes))
    with open(args.output / "results.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(metrics.to_rows(dataset.classes))
    confusion_plot(metrics.matrix, dataset.classes, args.output / "confusion.png")
    say(f"written to {args.output}")
