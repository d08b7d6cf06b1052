"""The benchmark of the input compares equal samples, on small scenes."""

import cv2
import numpy as np
import pytest
import torch

from benchmarks import input as input_benchmark
from dataset import build_dataset
from dataset.loading.loaders import TrainStream
from dataset.loading.transforms import BGR_MEAN, TrainTransform


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(input_benchmark, "SIZE", (96, 160))
    threads, of_cv2 = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(of_cv2)


def test_the_usual_way_gives_the_same_pixels_as_ours(tmp_path):
    input_benchmark.write_scenes(tmp_path, 3)
    stream = TrainStream(build_dataset("custom", tmp_path, "train"), TrainTransform((40, 56)), 0)
    for position in range(12):
        batch = stream.read([position])
        pixels, labels = input_benchmark.resize_then_crop(stream, position)
        height, width = batch.valid_size[0].tolist()
        assert pixels.shape == (3, height, width) and labels.shape == (height, width)
        ours = batch.images[0, :, :height, :width].numpy()[::-1].astype(np.float32) - np.reshape(BGR_MEAN, (3, 1, 1))
        assert np.abs(pixels - ours).max() <= 1.01  # ours is rounded to whole values
        assert (labels != batch.target[0, :height, :width].numpy()).mean() < 0.1  # nearest to another corner


def test_a_small_run_measures_every_way():
    result = input_benchmark.run(samples=3, scenes=2, crop=(40, 56))
    assert min(result["seconds"].values()) > 0
    assert set(result["targets"]) == {"files / decode", "float / files", "float / cache"}
    seconds = result["seconds"]
    assert result["targets"]["files / decode"]["measured"] == seconds["files"] / seconds["decode"]
    assert result["targets"]["float / cache"]["measured"] == seconds["float"] / seconds["cache"]
    assert 0 < result["bounds"]["rows_read"] <= 1
