"""The benchmark that measures what `--equal-seconds-by-cost` reads."""

import json

import yaml

from benchmarks import cost
from comparison.costs import read_costs


def test_costs_of_the_rows_of_a_comparison(tmp_path, data_root, monkeypatch):
    spec = {"dataset": "custom", "data": str(data_root), "output": str(tmp_path / "unused"), "iterations": 5}
    spec |= {"student": {"model": "psp_mobile", "backbone": "timm:test_efficientnet"}, "seeds": [0, 1]}
    rows = ["one=baseline", {"name": "other seed", "method": "baseline", "seeds": 7}]
    spec |= {"methods": rows, "train_flags": "--crop-size 40 56 --batch-size 2 --workers 0"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    words = ["cost", tmp_path / "spec.yaml", "--steps", 3, "--rounds", 2, "--json", tmp_path / "cost.json"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    cost.main()
    assert list(read_costs(tmp_path / "cost.json")) == ["one", "other seed"]
    rounds = json.loads((tmp_path / "cost.json").read_text())["rounds"]["one"]
    assert len(rounds) == 2 and min(rounds) > 0 and not (tmp_path / "unused").exists()
