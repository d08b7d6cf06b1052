"""The counts of the benchmark of the banks; the published sizes send at most a twentieth of the maps."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.banks import LARGEST_SHARE, RECIPES, LoopBank, wire_share, write_and_draw
from benchmarks.host_reads import HostReads

PUBLISHED = Path(__file__).parents[1] / "data/recipes.json"
NAMES = {"citys": "Cityscapes", "ade20k": "ADE20K", "coco_stuff_164k": "COCO-Stuff", "voc": "Pascal VOC"}


def test_sizes_are_those_of_the_recipes():
    for recipe in json.loads(PUBLISHED.read_text())["students"]:
        segformer = recipe["student_model"] == "segformer"
        _, size, _, batch = RECIPES[NAMES[recipe["dataset"]] + " SegFormer" * segformer]
        stride = 4 if segformer else 8
        assert [side * stride for side in size] == recipe["crop_size"] and batch == recipe["batch_size"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "Cityscapes SegFormer" else n for n in RECIPES]
)
def test_banks_send_at_most_a_twentieth(name):
    assert 0.001 < wire_share(*RECIPES[name]) <= LARGEST_SHARE


def test_the_loop_waits_and_the_banks_do_not(monkeypatch):
    monkeypatch.setattr("benchmarks.banks.SIZE", (16, 16))
    monkeypatch.setattr("benchmarks.banks.TEACHER_CHANNELS", 8)
    results = write_and_draw(1)
    assert results["banks"]["host_synchronizations"] == 0 < results["loop"]["host_synchronizations"]


def test_the_loop_keeps_its_rows():
    bank = LoopBank(3, 20, 4, 2)
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    with HostReads() as counter:
        bank.enqueue(rows, torch.tensor([[0, 2, 0, 0]]))
    assert counter.count > 0 and bank.counts == [[3, 0, 1], [1, 0, 1]]
    assert bank.draw(0, 2).shape == (3, 2)
    torch.testing.assert_close(bank.draw(1, 5)[0], torch.tensor([2.0, 1.0]) / 5**0.5)
