"""The benchmark that measures the targets of `losses.balance` sees every term of every method."""

import json
import statistics

import pytest
import torch

from benchmarks import balance
from losses import METHODS
from losses.balance import TARGETS
from models import build_model
from tests.pseudo_datasets import write_pseudo_dataset

NETWORK = ("psp_mobile", "timm:test_efficientnet")


@pytest.mark.parametrize("balanced", [False, True])
def test_every_term_is_measured(tmp_path, monkeypatch, balanced):
    """And, with --balance, has about the gradient of the table."""
    write_pseudo_dataset("camvid", tmp_path / "data", size=(48, 64), count=2)
    teacher = tmp_path / "psp_mobile_timm-test_efficientnet_camvid.pth"
    torch.save(build_model(*NETWORK, 11).state_dict(), teacher)
    words = ["balance", "--data", tmp_path / "data", "--teacher", teacher, "--student", *NETWORK]
    words += ["--crop-size", 64, 64, "--iterations", 2, "--json", tmp_path / "found.json"]
    words += ["--balanced"] if balanced else []
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    balance.main()
    found = json.loads((tmp_path / "found.json").read_text())["ratios"]
    assert {name: set(terms) for name, terms in found.items()} == {name: set(TARGETS[name]) for name in METHODS}
    ratios = {(name, term): ratio for name, terms in found.items() for term, ratio in terms.items()}
    assert all(ratio > 0 for ratio in ratios.values())
    if balanced:
        beside = [ratio / TARGETS[name][term] for (name, term), ratio in ratios.items()]
        assert statistics.median(beside) == pytest.approx(1, rel=0.5)
