"""Embeddings: which pixels are sampled, their way to the plane, the figure and the files."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine.evaluation.embeddings import chosen_classes, draw_embeddings, labels_at_centres, sample_pixels, to_plane
from tests.conftest import STUDENT, TEACHER
from tests.networks import save_varied
from utils.types import Batch, SegOutput

CPU = torch.device("cpu")


class Coarse(nn.Module):
    """Features at a quarter of the size that give their position: (row + 1, column + 1, image's first value)."""

    def forward(self, images, need_aux=True):
        assert not need_aux and not self.training
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        rows = torch.arange(1.0, height + 1)[:, None].expand(height, width)
        columns = torch.arange(1.0, width + 1).expand(height, width)
        features = torch.stack([rows, columns, images[0, 0, 0, 0].expand(height, width)])[None]
        return SegOutput(features, features)


def batches(count: int = 3) -> list[Batch]:
    """Images of 32x48: class 0 left, class 2 right, a void strip at the top."""
    target = torch.zeros(1, 32, 48, dtype=torch.uint8)
    target[..., 24:] = 2
    target[:, :8] = 255
    size = torch.tensor([[32, 48]])
    images = [torch.full((1, 3, 32, 48), 40 * index, dtype=torch.uint8) for index in range(count)]
    return [Batch(image, target, size, torch.tensor([index])) for index, image in enumerate(images)]


def test_features_take_the_label_at_their_centre():
    target = np.arange(6 * 9).reshape(6, 9)
    assert labels_at_centres(target, (2, 3)).tolist() == [[10, 13, 16], [37, 40, 43]]
    assert np.array_equal(labels_at_centres(target, (6, 9)), target)


def test_sample_has_as_many_pixels_of_each_class_as_asked_for():
    network = Coarse()
    sample = sample_pixels(network, batches(), [0, 1, 2], CPU, per_class=20)
    assert np.bincount(sample.labels).tolist() == [20, 0, 20]
    np.testing.assert_allclose(np.linalg.norm(sample.vectors, axis=1), 1, rtol=1e-5)
    ratio = sample.vectors[:, 1] / sample.vectors[:, 0]  # (column + 1) / (row + 1): columns 6 and more are class 2
    assert (ratio[sample.labels == 0] <= 6 / 3).all() and (ratio[sample.labels == 2] >= 7 / 8).all()
    assert len(np.unique(np.round(sample.vectors[:, 2] / sample.vectors[:, 0] * 1000))) > 10  # from several images
    assert network.training


def test_all_pixels_where_there_are_fewer_and_void_left_out():
    sample = sample_pixels(Coarse(), batches(1), [0, 1, 2], CPU, per_class=1000)
    assert np.bincount(sample.labels).tolist() == [6 * 6, 0, 6 * 6]  # two of eight rows are void
    assert np.bincount(sample_pixels(Coarse(), batches(1), [2], CPU, per_class=1000).labels).tolist() == [0, 0, 36]
    with pytest.raises(ValueError, match="need labels"):
        sample_pixels(Coarse(), batches(1), [1], CPU, per_class=5)


def test_sample_depends_on_the_seed_alone():
    first, again, other = (sample_pixels(Coarse(), batches(), [0, 2], CPU, per_class=9, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, other.vectors)
    turned = sample_pixels(Coarse(), batches()[::-1], [0, 2], CPU, per_class=9, seed=1)
    assert np.array_equal(first.vectors, turned.vectors)  # nor on the order of the images


def clusters(count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = 5 * np.eye(3, 12)
    labels = np.repeat(np.arange(3), count)
    return (centres[labels] + rng.normal(0, 0.2, (len(labels), 12))).astype(np.float32), labels


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_plane_keeps_clusters_apart_and_repeats(method):
    vectors, labels = clusters()
    points = to_plane(vectors, method, seed=3)
    assert points.shape == (90, 2) and points.dtype == np.float32
    assert np.array_equal(points, to_plane(vectors, method, seed=3))
    centres = np.stack([points[labels == k].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
    assert np.array_equal(nearest, labels)


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("shape", [(4, 8), (6, 1), (40, 2)])
def test_plane_of_few_and_thin_vectors(method, shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    points = to_plane(vectors, method)
    assert points.shape == (shape[0], 2) and np.isfinite(points).all()


def test_plane_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="at least 4"):
        to_plane(np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match="'umap'"):
        to_plane(np.zeros((9, 5), np.float32), "umap")


@pytest.mark.parametrize("networks", [1, 2, 4])
def test_figure_has_the_classes_colours(networks, tmp_path):
    colors = [(200, 30, 30), (255, 255, 255), (30, 30, 200), (0, 160, 0)]
    points, labels = np.random.default_rng(0).normal(size=(60, 2)), np.repeat([0, 1, 2], 20)
    panels = [(f"network {index}", points, labels) for index in range(networks)]
    draw_embeddings(panels, ["one", "two", "three", "four"], colors, tmp_path / "e.png")
    pixels = np.asarray(Image.open(tmp_path / "e.png").convert("RGB"))
    assert pixels.shape[1] == 750 * min(networks, 3) and pixels.shape[0] > 750 * (-(-networks // 3))
    amount = [(pixels == color).all(axis=2).sum() for color in colors]
    assert amount[0] > 100 * networks and amount[2] > 100 * networks
    assert amount[3] == 0  # a class that does not occur
    legend = pixels[-60:]
    assert (legend == colors[0]).all(axis=2).any() and (legend == colors[2]).all(axis=2).any()


def test_teacher_beside_student(run_main, data_root, tmp_path, capsys):
    files = []
    for names, prefix in ((TEACHER, ""), (STUDENT, "kd_")):
        files.append(save_varied(tmp_path / f"{prefix}{'_'.join(names)}_custom.pth", names, 3))
    words = ["--pretrained", *files, "--data", data_root, "--split", "test", "--pixels-per-class", 12, "--workers", 0]
    words += ["--device", "cpu", "--save-dir", tmp_path]
    tables = []
    for folder in ("one", "two"):
        run_main("visualize_embeddings", *words, "--save-dir-name", folder)
        tables.append(list(csv.DictReader((tmp_path / folder / "embeddings.csv").open())))
    assert tables[0] == tables[1] and len(tables[0]) > 20
    assert {row["network"] for row in tables[0]} == {
        "deeplabv3_mobilenet_ssseg, mobilenetv3_large",
        "psp_mobile, mobilenetv3_small (distilled)",
    }
    assert {row["class"] for row in tables[0]} == {"road", "traffic light", "sky"}
    arrays = np.load(tmp_path / "one/embeddings.npz")
    assert arrays["points_0"].shape == (len(arrays["labels_0"]), 2) and "points_1" in arrays
    assert len(arrays["labels_0"]) + len(arrays["labels_1"]) == len(tables[0])
    assert Image.open(tmp_path / "one/embeddings.png").size[0] == 1500
    assert "psp_mobile, mobilenetv3_small (distilled): " in capsys.readouterr().out

    run_main(
        "visualize_embeddings", *words, "--save-dir-name", "few", "--only", "sky", "road", "--titles", "T", "S",
        "--method", "pca",
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "few/embeddings.csv").open()))
    assert {row["network"] for row in rows} == {"T", "S"} and {row["class"] for row in rows} == {"road", "sky"}
    with pytest.raises(ValueError, match="--titles.*2 files"):
        run_main("visualize_embeddings", *words, "--titles", "T")


def test_classes_by_name():
    assert chosen_classes(["a", "b", "c"], None) == [0, 1, 2] and chosen_classes(["a", "b", "c"], ["c", "a"]) == [0, 2]
    with pytest.raises(ValueError, match="unknown class.* d; there are a, b, c"):
        chosen_classes(["a", "b", "c"], ["d"])
