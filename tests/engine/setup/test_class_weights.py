"""Weights of the classes in a run: counted or read once, part of its state, and the same when it goes on."""

import numpy as np
import pytest
import torch
from PIL import Image

import engine.setup.data
from dataset.check.checks import check_dataset
from tests.conftest import STUDENT, metric_lines
from tests.pseudo_datasets import block_mask, write_mask, write_pseudo_dataset
from utils.checkpoint import load_file


@pytest.fixture
def root(tmp_path):
    """Class 1, "traffic light", is in none of the four training masks."""
    root = write_pseudo_dataset("custom", tmp_path / "data", (48, 64), 4)
    for index in range(4):
        write_mask(root / f"masks/train_{index:03d}.png", block_mask((48, 64), (0, 2, 255), index))
    return root


@pytest.fixture
def train(root, run_main, tmp_path):
    words = ["--dataset", "custom", "--data", root, "--crop-size", 40, 56, "--batch-size", 2, "--max-iterations", 1]
    words += ["--model", STUDENT[0], "--backbone", STUDENT[1], "--device", "cpu", "--log-iter", 1, "--skip-val"]
    words += ["--workers", 0, "--save-dir", tmp_path / "runs"]

    def run(name, *more):
        """The run's state and its log."""
        run_main("train_baseline", *words, "--save-dir-name", name, *more)
        folder = tmp_path / "runs" / name
        return load_file(folder / "last_state.pth"), (folder / "log.txt").read_text()

    return run


@pytest.fixture
def never_counted(monkeypatch):
    monkeypatch.setattr(engine.setup.data, "count_labels", lambda *_: pytest.fail("counted again"))


def pixels_of(root) -> np.ndarray:
    masks = [np.asarray(Image.open(path)) for path in sorted(root.glob("masks/train_*"))]
    return np.array([sum((mask == label).sum() for mask in masks) for label in range(3)])


def test_balanced_weights_are_counted_once_logged_and_kept(root, train, tmp_path, monkeypatch):
    state, log = train("first", "--class-weights", "balanced")
    pixels = pixels_of(root)
    expected = [pixels.sum() / (2 * count) if count else 0 for count in pixels.tolist()]
    torch.testing.assert_close(state["task_loss"]["class_weights"], torch.tensor(expected, dtype=torch.float64))
    assert state["data"]["pixels of the classes"]["pixels"] == pixels.tolist()
    (kept,) = (tmp_path / "runs/label_counts").iterdir()
    assert f"counted in 4 masks, kept in {kept}" in log and "in all masks 1 of 3 classes have no pixel" in log
    assert (
        "WARNING: --class-weights balanced: weight 0 for 1 classes, without a pixel in the training split: traffic"
        in log
    )
    monkeypatch.setattr(engine.setup.data, "count_labels", lambda *_: pytest.fail("counted again"))
    again, log = train("second", "--class-weights", "balanced")
    assert torch.equal(again["task_loss"]["class_weights"], state["task_loss"]["class_weights"])
    assert "kept in" not in log
    plain, _ = train("plain")
    assert "task_loss" not in plain and "pixels of the classes" not in plain["data"]
    losses = [metric_lines(tmp_path / "runs" / name)[0]["loss_task"] for name in ("first", "second", "plain")]
    assert losses[0] == losses[1] != losses[2]


def test_a_check_counts_for_the_runs_that_follow(root, train, tmp_path, never_counted):
    check_dataset("custom", root, workers=0, save_dir=tmp_path / "runs")
    state, _ = train("run", "--class-weights", "median", "--crop-by-class", 1)
    assert state["data"]["pixels of the classes"]["pixels"] == pixels_of(root).tolist()


def test_a_file_of_weights_is_compared_on_resume(train, tmp_path):
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("sky 2\nroad 1\ntraffic light 0\n")
    state, log = train("run", "--class-weights", first)
    assert state["task_loss"]["class_weights"].tolist() == [1, 0, 2]
    assert f"WARNING: --class-weights {first}: weight 0 for 1 classes: traffic light" in log
    second.write_text("1\n0\n2\n")
    resume = ["--resume", "auto", "--class-weights"]
    assert "class weights: 1 (road) to 2 (sky)" in train("run", *resume, second)[1]
    second.write_text("1\n0\n3\n")
    with pytest.raises(ValueError, match="--resume needs the weights that the run was started with, which are 1 0 2"):
        train("run", *resume, second)
    with pytest.raises(ValueError, match="--class-weights was .*first.txt and is now balanced"):
        train("run", *resume, "balanced")
    with pytest.raises(ValueError, match="--class-weights was .* and is now None; --dice was 0.0 and is now 1.0"):
        train("run", *resume[:2], "--dice", 1)


def test_an_estimate_counts_and_writes_nothing(run_main, baseline, tmp_path, never_counted, capsys):
    words = [*baseline, "--class-weights", "balanced", "--crop-by-class", "--skip-val", "--estimate"]
    run_main("train_baseline", *words)
    assert "fits" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_masks_that_a_run_may_skip_are_not_kept_as_counted(root, train, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.setup.data, "CHECKED_SAMPLES", 1)
    (root / "masks/train_002.png").write_bytes(b"")
    _, log = train("run", "--class-weights", "balanced", "--skip-bad-samples", 1)
    assert "pixels of the classes: 1 masks cannot be read and are left out" in log and "train_002.png" in log
    assert not (tmp_path / "runs/label_counts").exists()
