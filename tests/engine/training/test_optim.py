"""Learning-rate schedule, parameter groups and the step's implementation, without a network."""

import copy

import pytest
import torch
from torch import nn

from engine.run.state import load_optimizer_state
from engine.training.optim import build_optimizer, poly_lr, set_lr


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
    group = build_optimizer(nn.Linear(1, 1), [], kind="sgd", lr=0.02, weight_decay=1e-4, momentum=0.9).param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)


class Pair(nn.Module):
    """A convolution and a linear layer, the convolution possibly channels_last."""

    def __init__(self, channels_last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def gradients(self) -> None:
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


def plain_optimizer(task: nn.Module, kind: str) -> torch.optim.Optimizer:
    options = {"lr": 0.1, "weight_decay": 1e-2, "fused": False, "foreach": False}
    if kind == "sgd":
        return torch.optim.SGD(task.parameters(), momentum=0.9, **options)
    return torch.optim.AdamW(task.parameters(), **options)


def own_optimizer(task: nn.Module, kind: str) -> torch.optim.Optimizer:
    optimizer = build_optimizer(task, [], kind=kind, lr=0.1, weight_decay=1e-2, momentum=0.9)
    assert optimizer.defaults["fused"] is True
    return optimizer


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_fused_step_is_the_plain_one(kind):
    tasks = Pair(), Pair()
    optimizers = plain_optimizer(tasks[0], kind), own_optimizer(tasks[1], kind)
    for _ in range(3):
        for task, optimizer in zip(tasks, optimizers, strict=True):
            task.gradients()
            optimizer.step()
    for wanted, got in zip(tasks[0].parameters(), tasks[1].parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_state_loads_into_another_implementation_and_memory_format(kind, before, after):
    """Fused kernels go through memory in storage order: a momentum of other strides would be read wrongly."""
    start = Pair(before)
    optimizer = plain_optimizer(start, kind)
    start.gradients()
    optimizer.step()
    resumed = Pair(after)
    resumed.load_state_dict(start.state_dict())
    own = own_optimizer(resumed, kind)
    optimizer.param_groups[0]["lr_mult"] = 1.0
    load_optimizer_state(own, copy.deepcopy(optimizer.state_dict()))
    assert all(group["fused"] is True for group in own.param_groups)
    for task, which in ((start, optimizer), (resumed, own)):
        task.gradients()
        which.step()
    for wanted, got in zip(start.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_gradients_have_the_strides_of_their_parameters():
    """What the fused step relies on, of convolutions in both formats whatever that of the images."""
    for channels_last in (False, True):
        task = Pair(channels_last)
        images = torch.randn(2, 3, 5, 5)
        for _ in range(2):  # the second adds to the first
            task.conv(
                images if channels_last else images.contiguous(memory_format=torch.channels_last)
            ).sum().backward()
        assert task.conv.weight.grad.stride() == task.conv.weight.stride()
