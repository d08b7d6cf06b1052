"""What an evaluation leaves: tables on screen and in files, and a confusion plot."""

import argparse
import csv
import json
from collections.abc import Callable
from typing import Any

from dataset.base import SegmentationDataset
from models.base import SegmentationNetwork
from utils.checkpoint import plain
from utils.complexity import count_macs, count_parameters
from utils.files import write_text
from utils.metrics import SegMetrics
from utils.visualize import confusion_plot


def describe_network(network: SegmentationNetwork, dataset: SegmentationDataset) -> dict[str, Any]:
    """Parameters and multiply-adds (of one pass over the whole of the split's first image)."""
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


def prepare_report(args: argparse.Namespace) -> None:
    """Makes the folders that `write_report` writes to, so that one that cannot be made is met before the work."""
    args.output.mkdir(parents=True, exist_ok=True)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)


def write_report(
    metrics: SegMetrics,
    dataset: SegmentationDataset,
    network: dict[str, Any],
    args: argparse.Namespace,
    say: Callable[[str], Any] = print,
) -> None:
    """Prints the tables and writes results.json, results.csv and confusion.png into `args.output`.

    Args:
        metrics: of all processes.
        dataset: what was evaluated.
        network: from `describe_network`.
        args: from `finish_evaluation_args`: output, json (the summary's second place, or None) and protocol.
        say: takes the text for the screen.
    """
    height, width = network["input_size"]
    say(
        f"{network['model']} on {network['backbone']}: {network['parameters'] / 1e6:.2f} M parameters, "
        f"{network['multiply_adds'] / 1e9:.2f} G multiply-adds ({network['flops'] / 1e9:.2f} GFLOPs) "
        f"for one pass over {height}x{width}"
    )
    summary = {"arguments": plain(vars(args)), "images": len(dataset), "network": network}
    labelled = metrics.num_pixels > 0
    if labelled:
        summary |= metrics.to_dict(dataset.classes) | {"confusion_matrix": metrics.matrix.tolist()}
    text = json.dumps(summary, indent=1)
    write_text(args.output / "results.json", text)
    if args.json is not None:
        args.json.write_text(text, encoding="utf-8")
    if labelled:
        say(f"{dataset.name} {dataset.split}, {len(dataset)} images; {args.protocol}")
        say(metrics.format_table(dataset.classes))
        with open(args.output / "results.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(metrics.to_rows(dataset.classes))
        confusion_plot(metrics.matrix, dataset.classes, args.output / "confusion.png")
    else:
        say(f"{len(dataset)} images of {dataset.name} {dataset.split} predicted; there are no labels to compare with")
    say(f"written to {args.output}")
