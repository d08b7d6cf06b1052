"""The benchmark of the relations compares equal computations, and its targets follow from the measurements."""

import pytest
import torch

from benchmarks import relations
from benchmarks.relation_inputs import Inputs

SIZE = (2, 32, 8, 12)


@pytest.mark.parametrize("group", relations.GROUPS)
def test_ours_equals_the_formulas(group):
    seconds, errors = relations.time_group(group, Inputs(SIZE, "cpu"))
    assert set(seconds) == set(relations.WAYS) and min(seconds.values()) > 0
    assert errors["float32"]["value"] < 1e-5 and errors["float32"]["gradient"] < 1e-4
    assert errors["bfloat16"]["value"] < 0.05 and errors["bfloat16"]["gradient"] < 0.2


@pytest.mark.parametrize("kind", relations.KINDS)
def test_the_kinds_of_features_are_as_named(kind):
    maps = Inputs((2, 32, 16, 16), "cpu", **relations.KINDS[kind]).teacher
    assert bool((maps >= 0).all()) == ("ReLU" in kind)
    patch = maps[:, :, :8, :8].flatten(2)
    rows = torch.nn.functional.normalize(patch.transpose(1, 2), dim=2)
    assert ((rows @ rows.transpose(1, 2)).mean() > 0.9) == ("classes" in kind)


@pytest.mark.parametrize("slow", [False, True])
def test_the_table_shows_the_measured_values(slow, monkeypatch):
    peaks = {"plain": 1000.0, "float32": 100.0, "bfloat16": 200.0}
    monkeypatch.setattr(relations, "_peak_in_fresh_process", lambda group, way, *_: peaks[way])
    times = {"plain": 10.0, "float32": 9.0 if slow else 2.0, "bfloat16": 8.0 if slow else 1.0}
    monkeypatch.setattr(relations, "time_group", lambda group, inputs: (times, {way: {} for way in times}))
    threads = torch.get_num_threads()
    try:
        result = relations.run(SIZE, "cpu", threads=1)
    finally:
        torch.set_num_threads(threads)
    targets = result["targets"]
    assert len(targets) == 9
    for name, target in targets.items():
        if "plain / ours" in name:
            assert target["met"] != slow
        elif "extra memory" in name:
            assert target["met"] == ("float32" in name)
    assert targets["memory float32: plain / ours"]["measured"] == pytest.approx(10 / times["float32"])
    assert set(result["rounding"]) == {f"{kind}, distance {d}" for kind in relations.KINDS for d in (0.5, 0.05)}
