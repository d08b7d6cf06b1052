"""Evaluation: inference, metrics on screen and in files, predicted masks."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dataset import build_dataset
from engine.evaluation.evaluator import evaluation_mode
from engine.setup.teacher import check_teacher
from tests.conftest import STUDENT
from tests.networks import save_varied
from utils.types import Batch, SegOutput


def test_evaluation_mode_gives_every_module_its_mode_back():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
    network[0].eval()
    with evaluation_mode(network):
        assert not any(module.training for module in network.modules())
    assert network.training and network[1].training and not network[0].training


class Knows(nn.Module):
    """Predicts class 1 where the first channel is above its mean."""

    def forward(self, images, need_aux=True):
        score = images[:, :1] - images[:, :1].mean()
        return SegOutput(torch.cat([-score, score], 1), score)


def halves(wrong: bool) -> list[Batch]:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images[..., 4:] = 200
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    target[..., 4:] = 1
    target = 1 - target if wrong else target
    target[:, 0] = 255
    return [Batch(images, target, torch.tensor([[8, 8]]), torch.tensor([0]))]


def test_teacher_check_compares_with_the_best_constant_prediction():
    assert check_teacher(Knows(), halves(False), 2, torch.device("cpu"), images=4).miou == 1.0
    with pytest.raises(ValueError, match=r"mIoU on .* is 0\.00%, expected more than 37\.50%"):
        check_teacher(Knows(), halves(True), 2, torch.device("cpu"), images=4)


def test_eval_writes_tables_plot_masks_and_blends(run_main, data_root, tmp_path, capsys):
    weights = save_varied(tmp_path / "student.pth", STUDENT, 3)
    run_main(
        "eval", "--model", STUDENT[0], "--backbone", STUDENT[1], "--pretrained", weights, "--dataset", "custom",
        "--data", data_root, "--split", "test", "--save-pred", "--blend", "--scales", 0.75, 1, "--flip-eval",
        "--boundary-iou", "--json", tmp_path / "json" / "summary.json",
        "--save-dir", tmp_path, "--workers", 0, "--device", "cpu", "--crop-size", 512, 1024, "--channels-last",
    )  # fmt: skip
    folder = tmp_path / "eval_student_custom_test"
    results = json.loads((folder / "results.json").read_text())
    assert results["images"] == 4 and results["network"]["flops"] == 2 * results["network"]["multiply_adds"] > 0
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["class"] for row in rows] == ["road", "traffic light", "sky"]
    assert results["miou"] == pytest.approx(np.mean([float(row["iou"]) for row in rows]))
    assert results["boundary_miou"] == pytest.approx(np.mean([float(row["boundary_iou"]) for row in rows]))
    assert json.loads((tmp_path / "json/summary.json").read_text()) == results
    text = capsys.readouterr().out
    assert f"mIoU {100 * results['miou']:.2f} (all 3 classes" in text and "GMACs" in text
    assert f"boundary IoU {100 * results['boundary_miou']:.2f} (all 3 classes)" in text
    assert "custom test, 4 images; whole images, scales 0.75, 1, with mirror images" in text
    assert Image.open(folder / "confusion.png").size[0] > 200

    # the masks are the predictions: their confusion with the truth is the one reported
    dataset = build_dataset("custom", data_root, "test")
    matrix = np.zeros((3, 3), dtype=int)
    for index in range(len(dataset)):
        image, truth = dataset[index]
        name = dataset.image_paths[index].rsplit("/", 1)[1]
        mask = Image.open(folder / "masks" / name)
        assert mask.mode == "P" and mask.getpalette()[:3] == [128, 64, 128]
        labels = np.asarray(mask)
        np.add.at(matrix, (truth[truth != 255], labels[truth != 255]), 1)
        assert Image.open(folder / "blends" / name).size == (image.shape[1], image.shape[0])
    assert matrix.tolist() == results["confusion_matrix"]
