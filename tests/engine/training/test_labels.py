"""Runs without labels, of some images or of all."""

import numpy as np
import pytest

from dataset.base import SegmentationDataset
from tests.conftest import metric_lines
from tests.pseudo_datasets import write_mask, write_pseudo_dataset


def test_no_label_in_the_first_log_interval_ends_the_run(baseline, run_main, tmp_path, monkeypatch):
    root = write_pseudo_dataset("custom", tmp_path / "data", count=2)
    for path in (root / "masks").glob("train_*"):
        write_mask(path, np.full((32, 48), 255, dtype=np.uint8))
    monkeypatch.setattr(SegmentationDataset, "check_samples", lambda *args: [])  # as if these had not been opened
    words = [*baseline, "--data", root, "--max-iterations", 9, "--log-iter", 3]
    with pytest.raises(ValueError, match="no pixel of the first 3 iterations has a class"):
        run_main("train_baseline", *words)
    assert [line["loss_task"] for line in metric_lines(tmp_path / "run") if "loss" in line] == [0]


def test_labels_alone_cannot_teach_images_without_masks(baseline, distillation, data_root, run_main, tmp_path):
    root = write_pseudo_dataset("custom", tmp_path / "data", size=(48, 64), count=4)
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\n".join([lines[0].split()[0], *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match="1 of 4 training images have no mask, first .*train_000.png.*train_kd.py"):
        run_main("train_baseline", *baseline, "--data", root)
    words = [*distillation, "--max-iterations", 1, "--log-iter", 1]
    run_main("train_cirkdv2", *words, "--data", root)
    assert "1 of the training images have no mask: the teacher alone" in (tmp_path / "run/log.txt").read_text()
    for flags, message in (
        (["--pseudo-labels"], "--pseudo-labels given: expected training images without masks"),
        (["--data", root, "--pseudo-labels", "--accumulation-steps", 2], "need --accumulation-steps 1"),
        (["--unlabelled", tmp_path / "none"], "--unlabelled .*none does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run_main("train_cirkdv2", *words, "--overwrite", *flags)
