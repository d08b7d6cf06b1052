"""The table and the pictures of finished runs."""

import json

import numpy as np
import pytest
from PIL import Image

from dataset import build_dataset
from engine.comparison import read_row, write_pictures
from utils.visualize import save_indexed_png


def finished_run(folder, data_root, miou):
    """A run and its evaluation as the entry points leave them; predicts class 1 everywhere."""
    dataset = build_dataset("custom", data_root, "test")
    (folder / "eval/masks").mkdir(parents=True)
    lines = [{"iteration": 1, "seconds_per_iteration": 9.0}, {"iteration": 2, "seconds_per_iteration": 0.5}]
    lines += [{"iteration": 3, "seconds_per_iteration": 0.7}, {"iteration": 3, "validation": {"miou": 0.1}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"miou": miou, "pixel_accuracy": 0.5, "network": {"parameters": 1_500_000}}
    (folder / "eval/results.json").write_text(json.dumps(results))
    for path in dataset.image_paths:
        save_indexed_png(np.ones((48, 64), np.uint8), dataset.palette, folder / "eval/masks" / path.rsplit("/", 1)[1])
    return dataset


def test_figures_are_those_of_the_run(tmp_path, data_root):
    finished_run(tmp_path, data_root, 0.25)
    row = read_row("student", tmp_path, tmp_path / "eval")
    assert (row.miou, row.pixel_accuracy, row.parameters) == (0.25, 0.5, 1_500_000)
    assert row.seconds_per_iteration == pytest.approx(0.7)


def test_pictures_show_image_truth_and_prediction(tmp_path, data_root):
    dataset = finished_run(tmp_path, data_root, 0.25)
    row = read_row("student", tmp_path, tmp_path / "eval")
    assert write_pictures([row], dataset, 2, tmp_path / "pictures") == 2
    picture = np.asarray(Image.open(sorted((tmp_path / "pictures").iterdir())[0]).convert("RGB"))
    colour = np.array(dataset.palette[1])
    assert (picture == colour).all(axis=2).sum() >= 48 * 64  # the prediction's cell is filled with its class


def test_missing_evaluation_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        read_row("student", tmp_path, tmp_path / "eval")
