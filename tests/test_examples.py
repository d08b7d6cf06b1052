"""What examples/ shows works."""

import csv
import math

import pytest

from examples import own_logger, own_loop, own_method
from losses import METHODS
from tests.conftest import metric_lines
from utils.sinks import LOGGERS


def test_own_method_trains_beside_another_and_has_flags(run_main, distillation, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "norm", own_method.FeatureNorm)
    words = distillation[: distillation.index("--pixel-memory-size")]
    words += ["--method", "norm+kd", "--lambda-norm", 2, "--norm-log", "--max-iterations", 1, "--skip-val"]
    run_main("train_kd", *words)
    (line,) = metric_lines(tmp_path / "run")
    assert line["loss_norm"] > 0 and line["loss_kd"] > 0
    with pytest.raises(ValueError, match="--norm-temperature 0.0: expected a number above 0"):
        run_main("train_kd", *words, "--norm-temperature", 0, "--overwrite")


def test_own_logger_gets_the_curves(run_main, baseline, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "csv", own_logger.CSVSink)
    run_main("train_baseline", *baseline, "--logger", "csv", "--max-iterations", 1, "--log-iter", 1, "--skip-val")
    (line,) = metric_lines(tmp_path / "run")
    with open(tmp_path / "run/curves.csv", newline="") as file:
        curves = {name: float(value) for _, name, value in csv.reader(file)}
    assert curves["train/loss"] == line["loss"] and curves["lr"] == line["lr"]


def test_own_loop_computes_every_term():
    history = own_loop.main()
    assert len(history) == own_loop.ITERATIONS
    relations = {f"loss_{kind}" for kind in ("minibatch_pixel", "minibatch_channel", "memory_pixel", "memory_channel")}
    assert history[0].keys() >= relations | {"loss_task", "loss_kd", "loss_channel_kd"}
    assert all(math.isfinite(value) for losses in history for value in losses.values())
