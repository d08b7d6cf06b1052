"""Learning-rate schedule and parameter groups, without a network."""

import pytest
from torch import nn

from engine.optim import build_optimizer, poly_lr, set_lr


def test_poly_schedule_by_hand():
    assert poly_lr(0.02, 0, 100) == 0.02
    assert poly_lr(0.02, 50, 100) == pytest.approx(0.02 * 0.5**0.9)
    assert poly_lr(0.02, 99, 100) == pytest.approx(0.02 * 0.01**0.9)


def test_warmup_rises_linearly_to_the_schedule():
    rates = [poly_lr(1.0, iteration, 1000, warmup_iters=4) for iteration in range(5)]
    plain = [poly_lr(1.0, iteration, 1000) for iteration in range(5)]
    assert [r / p for r, p in zip(rates, plain, strict=True)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_head_multiplier_applies_to_all_but_the_backbone():
    task = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    options = {"kind": "sgd", "lr": 0.1, "weight_decay": 1e-4, "momentum": 0.9}
    optimizer = build_optimizer(task, task["backbone"].parameters(), **options, head_lr_mult=10)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 5.0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    assert len(build_optimizer(task, task["backbone"].parameters(), **options).param_groups) == 1


def test_sgd_has_the_published_settings():
    optimizer = build_optimizer(
        nn.Linear(1, 1), [], kind="sgd", lr=0.02, weight_decay=1e-4, momentum=0.9
    )  # fmt: skip
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
