"""A run whose batches hold no labelled pixel ends at its first log line."""

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
