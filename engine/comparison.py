"""Runs side by side: one table, and pictures of the same images under every network.

    python -m engine.comparison --dataset synthetic --data DATA --split test --output OUT \
        --run "teacher" RUN_FOLDER EVALUATION_FOLDER --run "student alone" RUN_FOLDER EVALUATION_FOLDER

A run's folder holds metrics.jsonl (of a training entry point), an evaluation's folder results.json and masks/ (of
`eval.py --save-pred`). Nothing is computed anew: what is printed was measured by those programs.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset import build_dataset
from dataset.base import SegmentationDataset
from engine.args import Parser, add_data_args
from engine.cli import run_cli
from engine.pictures import legend
from engine.predictions import prediction_names
from utils.panels import panel
from utils.visualize import colorize


@dataclass(frozen=True)
class Row:
    """What one run came to; ratios from 0 to 1."""

    name: str
    miou: float
    pixel_accuracy: float
    parameters: int
    seconds_per_iteration: float
    masks: Path


def parse_args() -> argparse.Namespace:
    parser = Parser("Compare finished runs.")
    add_data_args(parser, train=False)
    parser.add_argument("--split", choices=("val", "test", "train"), default="val")
    parser.add_argument("--run", action="append", nargs=3, required=True, metavar=("NAME", "RUN", "EVALUATION"))
    parser.add_argument("--pictures", type=int, default=8, help="how many images, spread evenly over the split")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def read_row(name: str, run: Path, evaluation: Path) -> Row:
    """Reads a run's figures.

    Raises:
        FileNotFoundError: the run or the evaluation has not been made.
    """
    results = json.loads(_existing(evaluation / "results.json").read_text(encoding="utf-8"))
    return Row(
        name,
        results["miou"],
        results["pixel_accuracy"],
        results["network"]["parameters"],
        seconds_per_iteration(_existing(run / "metrics.jsonl")),
        evaluation / "masks",
    )


def seconds_per_iteration(metrics_file: Path) -> float:
    """Median over the log intervals of a run; validation and saving are not in it."""
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds_per_iteration"] for line in lines if "seconds_per_iteration" in line]
    if not seconds:
        raise ValueError(f"{metrics_file} holds no timed interval: the run logged nothing.")
    return float(np.median(seconds))


def format_rows(rows: list[Row]) -> str:
    """The table, aligned, in percent and millions."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}   mIoU %   pixel acc. %   parameters M   s/iteration"]
    for row in rows:
        lines.append(
            f"{row.name:<{width}} {100 * row.miou:8.2f} {100 * row.pixel_accuracy:14.2f} "
            f"{row.parameters / 1e6:14.2f} {row.seconds_per_iteration:13.3f}"
        )
    return "\n".join(lines)


def format_differences(rows: list[Row]) -> list[str]:
    """A line on every run but the first: what it gained, or did not, over the first."""
    lines = []
    for row in rows[1:]:
        points = 100 * (row.miou - rows[0].miou)
        verdict = "" if points > 0 else ": no gain in this run"
        lines.append(f"{row.name} against {rows[0].name}: {points:+.2f} mIoU points{verdict}")
    return lines


def write_pictures(rows: list[Row], dataset: SegmentationDataset, count: int, folder: Path) -> int:
    """Writes panels of image, truth and every run's prediction; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    names = prediction_names(dataset)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    for index in chosen.tolist():
        image, truth = dataset[index]
        cells = [("image", image)]
        if truth is not None:
            cells.append(("truth", colorize(truth, dataset.palette)))
        labels = [] if truth is None else [truth]
        for row in rows:
            labels.append(np.asarray(Image.open(_existing(row.masks / f"{names[index]}.png"))))
            cells.append((row.name, colorize(labels[-1], dataset.palette)))
        Image.fromarray(panel(cells, legend=legend(dataset, *labels))).save(folder / f"{names[index]}.png")
    return len(chosen)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: train and evaluate (with --save-pred) first.")
    return path


def main() -> None:
    args = parse_args()
    list_file = getattr(args, f"{args.split}_list")
    dataset = build_dataset(args.dataset, args.data, args.split, list_file=list_file, ignore_label=args.ignore_label)
    rows = [read_row(name, Path(run), Path(evaluation)) for name, run, evaluation in args.run]
    table = "\n".join([format_rows(rows), "", *format_differences(rows)])
    count = write_pictures(rows, dataset, args.pictures, args.output / "pictures")
    (args.output / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(f"{dataset.name} {args.split}, {len(dataset)} images\n{table}")
    print(f"{count} pictures: {args.output / 'pictures'}")


if __name__ == "__main__":
    run_cli(main)
