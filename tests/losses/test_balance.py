"""Factors that give each term its share of the task's gradient."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from losses import METHODS, balance
from losses.balance import ITERATIONS, Balance, targets
from utils.types import Step


def terms(features, slopes):
    """Losses whose gradients on the features have the lengths that are given."""
    return {f"loss_{name}": (features * slope).sum() / features.numel() ** 0.5 for name, slope in slopes.items()}


def test_targets_are_those_that_were_measured():
    measured = json.loads((Path(balance.__file__).parents[1] / "benchmarks/balance.json").read_text())["ratios"]
    assert {m: {t: float(f"{v:.3g}") for t, v in terms.items()} for m, terms in measured.items()} == balance.TARGETS


def test_terms_get_their_share_of_the_tasks_gradient():
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    module = Balance({"loss_a": 0.5, "loss_b": 2.0, "loss_absent": 1.0, "loss_zero": 1.0}).double()
    slopes = {"task": 3.0, "a": 7.0, "b": 0.01, "zero": 0.0, "other": 5.0}
    balanced = module(terms(features, slopes), features, Step(0))
    norms = {name: torch.autograd.grad(loss, features)[0].norm().item() for name, loss in balanced.items()}
    assert norms == pytest.approx({"loss_task": 3, "loss_a": 1.5, "loss_b": 6, "loss_zero": 0, "loss_other": 5})
    assert module.values() == pytest.approx({"loss_a": 1.5 / 7, "loss_b": 600, "loss_absent": 1, "loss_zero": 1})
    module(terms(features, slopes | {"a": 28.0}), features, Step(1))  # the geometric mean of both is twice the first's
    assert module.values()["loss_a"] == pytest.approx(1.5 / 14)
    assert "a 0.107, b 600" in module.describe()


def test_factors_stay_after_the_first_iterations_and_are_part_of_the_state():
    features = torch.ones(1, 2, 1, 1, requires_grad=True)
    module = Balance({"loss_a": 1.0})
    for step, slope in ((Step(0), 2.0), (Step(0, 1, 2), 9.0), (Step(ITERATIONS), 9.0)):  # a micro-batch; too late
        module(terms(features, {"task": 1.0, "a": slope}), features, step)
    module.eval()(terms(features, {"task": 1.0, "a": 9.0}), features, Step(1))
    assert module.values() == pytest.approx({"loss_a": 0.5})
    other = Balance({"loss_a": 1.0})
    other.load_state_dict(module.state_dict())
    for one in (module.train(), other):
        one(terms(features, {"task": 1.0, "a": 8.0}), features, Step(1))
        assert one.values() == pytest.approx({"loss_a": 0.25})


def test_targets_are_those_after_the_warm_up():
    features = torch.ones(1, 2, 1, 1, requires_grad=True)
    module = Balance({"loss_a": 1.0}, distill_warmup_iters=10)
    module(terms(features, {"task": 1.0, "a": 0.4}), features, Step(1))  # a fifth of its weight, so 2 after it
    assert module.values() == pytest.approx({"loss_a": 0.5})


def test_targets_follow_the_weights(monkeypatch):
    @dataclass
    class Config:
        a_weight: float = 2.0
        b_weight: float = 0.0

    monkeypatch.setattr(balance, "TARGETS", {"one": {"a": 0.25, "b": 3.0}})
    assert targets({"one": Config(), "unknown": Config()}) == {"loss_a": 0.5}


def test_every_term_has_a_target():
    for method, cls in METHODS.items():
        weights = {name.removesuffix("_weight") for name in cls.Config.__dataclass_fields__ if name.endswith("_weight")}
        assert set(balance.TARGETS[method]) == weights - {"d"}, method  # which trains the discriminator alone
        assert all(ratio > 0 for ratio in balance.TARGETS[method].values())
