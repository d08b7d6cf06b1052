import math
from types import SimpleNamespace

import pytest
import torch

from utils.checkpoint import load_file, save_atomic
from utils.meters import LossMeter, RateMeter, format_duration


def tensors(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_since_the_last_read_of_terms_that_come_and_go():
    meter = LossMeter()
    meter.update({}, 0)
    assert meter.read() == {} and meter.first_bad() is None
    meter.update(tensors(task=1.0), 0)
    meter.update(tensors(task=3.0, memory=10.0), 1)
    meter.update(tensors(memory=20.0, other=5.0), 2)
    assert meter.read() == {"task": 2.0, "memory": 15.0, "other": 5.0}
    assert meter.read() == {}
    meter.update(tensors(memory=1.0), 3)
    assert meter.read() == {"memory": 1.0}


def test_half_precision_and_gradients_and_one_element_tensors():
    meter = LossMeter()
    loss = torch.tensor(2.0, requires_grad=True)
    meter.update({"a": loss * 3, "b": torch.tensor([1.5], dtype=torch.bfloat16)}, 0)
    for _ in range(3):
        meter.update({"a": loss * 1, "b": torch.tensor([1.5], dtype=torch.bfloat16)}, 1)
    assert meter.read() == {"a": 3.0, "b": 1.5}


def test_sums_keep_small_losses_beside_large_ones():
    meter = LossMeter()
    meter.update(tensors(a=float(2**24)), 0)
    for _ in range(999):
        meter.update(tensors(a=1.0), 1)
    assert meter.read()["a"] == pytest.approx((2**24 + 999) / 1000, rel=1e-9)


@pytest.mark.parametrize("iteration", [0, 10_000_001])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_first_bad_loss_is_kept(bad, iteration):
    meter = LossMeter()
    meter.update(tensors(task=1.0, kd=1.0), iteration)
    assert meter.first_bad() is None
    meter.update(tensors(extra=bad, task=1.0, kd=bad), iteration)  # another order and a new term: names are kept apart
    meter.update(tensors(task=math.nan, kd=1.0), iteration + 1)
    assert meter.first_bad() == (iteration, "kd")
    meter.read()
    assert meter.first_bad() == (iteration, "kd")
    meter.update(tensors(task=1.0, kd=1.0), iteration + 2)
    assert meter.first_bad() == (iteration, "kd")


def test_state_continues_the_sums(tmp_path):
    whole, before, after = LossMeter(), LossMeter(), LossMeter()
    steps = [tensors(a=0.1), tensors(a=0.7, b=0.3), tensors(a=1.3)]
    for iteration, losses in enumerate(steps):
        whole.update(losses, iteration)
    for iteration, losses in enumerate(steps[:2]):
        before.update(losses, iteration)
    save_atomic(before.state_dict(), tmp_path / "meter.pth")
    after.load_state_dict(load_file(tmp_path / "meter.pth"))
    assert after.first_bad() is None
    after.update(steps[2], 2)
    assert after.read() == whole.read()


def test_a_state_with_groups_of_terms_is_read():
    """Earlier versions kept one count for the terms that came together."""
    meter = LossMeter()
    meter.load_state_dict({"names": ["a", "b"], "groups": [(["a"], [1.0], 1), (["a", "b"], [5.0, 3.0], 2)]})
    assert meter.read() == {"a": 2.0, "b": 1.5}


def test_rates():
    clock = SimpleNamespace(now=100.0)
    meter = RateMeter(lambda: clock.now)
    for _ in range(2):
        clock.now += 1.0
        meter.data_ready()
        clock.now += 2.0
        meter.step_done(images=8)
    clock.now += 2.0  # the loop waits for the device
    assert meter.eta(10) == "?"
    assert meter.read() == {"images_per_second": 2.0, "seconds_per_iteration": 4.0, "data_seconds": 1.0}
    assert meter.eta(30) == "2:00"
    clock.now += 1000.0
    meter.skip()  # validation
    assert meter.read() == {}
    clock.now += 2.0
    meter.step_done(images=8)
    assert meter.read()["images_per_second"] == 4.0
    assert meter.seconds_per_iteration == pytest.approx(0.7 * 4.0 + 0.3 * 2.0)


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01"), (90000, "1 day 1:00:00"), (-3, "0:00")],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text
