"""What an evaluation leaves: tables on screen and in files, and a confusion plot."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataset.base import SegmentationDataset
from engine.config.evaluation import EvalConfig
from engine.config.protocol import Protocol
from models.base import SegmentationNetwork
from utils.complexity import count_macs, count_parameters
from utils.files import write_text
from utils.flags import record
from utils.metrics import SegMetrics
from utils.visualize import confusion_plot


def describe_network(network: SegmentationNetwork, dataset: SegmentationDataset) -> dict[str, Any]:
    """Parameters and MACs (of one pass over the whole of the split's first image)."""
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


def prepare_report(folder: Path, json_file: Path | None) -> None:
    """Makes the folders that `write_report` writes to, so that one that cannot be made is met before the work."""
    folder.mkdir(parents=True, exist_ok=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)


def write_report(
    metrics: SegMetrics,
    dataset: SegmentationDataset,
    network: dict[str, Any],
    config: EvalConfig,
    protocol: Protocol,
    folder: Path,
    log: Callable[[str], Any] = print,
) -> None:
    """Prints the tables and writes results.json, results.csv and confusion.png into `folder`.

    Args:
        metrics: of all processes.
        dataset: what was evaluated.
        network: from `describe_network`.
        config: of the evaluation; its `report.json` is a second place for results.json.
        protocol: how images were predicted.
        folder: of the files.
        log: takes the text for the screen.
    """
    height, width = network["input_size"]
    log(
        f"{network['model']} on {network['backbone']}: {network['parameters'] / 1e6:.2f} M parameters, "
        f"{network['multiply_adds'] / 1e9:.2f} GMACs ({network['flops'] / 1e9:.2f} GFLOPs) "
        f"for one pass over {height}x{width}"
    )
    summary = {"arguments": record(config) | {"protocol": str(protocol)}, "images": len(dataset), "network": network}
    labelled = metrics.num_pixels > 0
    if labelled:
        summary |= metrics.to_dict(dataset.classes) | {"confusion_matrix": metrics.matrix.tolist()}
    text = json.dumps(summary, indent=1)
    write_text(folder / "results.json", text)
    if config.report.json is not None:
        config.report.json.write_text(text, encoding="utf-8")
    if labelled:
        log(f"{dataset.name} {dataset.split}, {len(dataset)} images; {protocol}")
        log(metrics.format_table(dataset.classes))
        with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(metrics.to_rows(dataset.classes))
        confusion_plot(metrics.matrix, dataset.classes, folder / "confusion.png")
    else:
        log(f"{len(dataset)} images of {dataset.name} {dataset.split} predicted; there are no labels to compare with")
    log(f"written to {folder}")
