"""Bad training samples in a run: logged once, replaced, counted; one too many stops it, and it can be resumed."""

import re

import pytest

import engine.setup.data
from dataset.loading.samplers import StreamOrder
from tests.conftest import STUDENT, assert_same_runs
from tests.pseudo_datasets import write_pseudo_dataset
from utils.checkpoint import load_file


@pytest.fixture
def run(tmp_path, run_main, monkeypatch):
    """Four iterations on six samples: a bad one is in the first batch, another in the third."""
    monkeypatch.setattr(engine.setup.data, "CHECKED_SAMPLES", 0)  # else both are found before training
    root = write_pseudo_dataset("custom", tmp_path / "data", (48, 64), 6)
    order = StreamOrder(6, seed=0)
    first, second = order.index(1), order.index(5)
    assert next(order.replacements(1)) not in (first, second)
    (root / f"masks/train_{first:03d}.png").write_bytes(b"")
    (root / f"images/train_{second:03d}.png").unlink()
    words = ["--dataset", "custom", "--data", root, "--crop-size", 40, 56, "--batch-size", 2, "--max-iterations", 4]
    words += ["--model", STUDENT[0], "--backbone", STUDENT[1], "--device", "cpu", "--log-iter", 1, "--skip-val"]
    words += ["--save-per-iters", 2, "--save-dir", tmp_path, "--workers", 0]
    return lambda name, *more: run_main("train_baseline", *words, "--save-dir-name", name, *more)


def test_one_too_many_stops_the_run_and_a_resume_that_allows_more_ends_as_an_unbroken_one(run, tmp_path):
    run("whole", "--skip-bad-samples", 2)
    log = (tmp_path / "whole/log.txt").read_text()
    assert log.count("bad training sample 1 of at most 2") == log.count("bad training sample 2 of at most 2") == 1
    assert re.search(r"bad training samples met and replaced: 2\n  the mask .*is empty\n  .*does not exist", log)

    with pytest.raises(ValueError, match=r"2 training samples cannot be used, and --skip-bad-samples allows 1:\n"):
        run("part", "--skip-bad-samples", 1)
    assert load_file(tmp_path / "part/last_state.pth")["iteration"] == 2
    run("part", "--skip-bad-samples", 2, "--resume", "auto")
    assert_same_runs(tmp_path / "whole", tmp_path / "part", "skip_bad_samples")


def test_without_the_flag_the_first_one_stops_it(run):
    with pytest.raises(FileNotFoundError, match="1 of 12 files are missing"):
        run("strict")
