import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils import meters
from utils.checkpoint import load_file, save_atomic
from utils.meters import LossMeter, RateMeter, format_duration


def tensors(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_since_the_last_read():
    meter = LossMeter()
    meter.update(tensors(task=1.0, kd=4.0), 0)
    meter.update(tensors(task=2.0, kd=6.0), 1)
    assert meter.read() == {"task": 1.5, "kd": 5.0}
    assert meter.read() == {}
    meter.update(tensors(task=7.0, kd=1.0), 2)
    assert meter.read() == {"task": 7.0, "kd": 1.0}


def test_an_empty_meter():
    meter = LossMeter()
    meter.update({}, 0)
    assert meter.read() == {} and meter.first_bad() is None


def test_terms_come_and_go():
    meter = LossMeter()
    meter.update(tensors(task=1.0), 0)
    meter.update(tensors(task=3.0, memory=10.0), 1)
    meter.update(tensors(memory=20.0, other=5.0), 2)
    assert meter.read() == {"task": 2.0, "memory": 15.0, "other": 5.0}
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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_first_bad_loss_is_kept(bad):
    meter = LossMeter()
    meter.update(tensors(task=1.0, kd=1.0), 10)
    assert meter.first_bad() is None
    meter.update(tensors(extra=1.0, task=1.0, kd=bad), 11)  # another order and a new term: names are kept apart
    meter.update(tensors(task=math.nan, kd=1.0), 12)
    assert meter.first_bad() == (11, "kd")
    meter.read()
    assert meter.first_bad() == (11, "kd")
    meter.update(tensors(task=1.0, kd=1.0), 13)
    assert meter.first_bad() == (11, "kd")
    meter.reset()
    assert meter.first_bad() is None and meter.read() == {}


def test_first_of_several_bad_terms_and_iteration_zero():
    meter = LossMeter()
    meter.update(tensors(a=1.0, b=math.nan, c=math.inf), 0)
    assert meter.first_bad() == (0, "b")


def test_a_late_iteration_is_exact():
    meter = LossMeter()
    meter.update(tensors(a=1.0, b=math.nan), 10_000_001)
    meter.read()
    assert meter.first_bad() == (10_000_001, "b")


class Spy(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.waits += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return func(*args, **(kwargs or {}))


def test_update_reads_nothing_back():
    meter = LossMeter()
    with Spy() as spy:
        for iteration in range(3):
            meter.update(tensors(a=1.0, b=math.nan), iteration)
        assert spy.waits == 0
        meter.first_bad()
        assert spy.waits == 1  # the spy sees what it should


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_update_on_a_gpu_never_waits():
    meter = LossMeter()
    losses = {"a": torch.ones((), device="cuda"), "b": torch.full((), math.nan, device="cuda")}
    meter.update(losses, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        meter.update(losses, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.read()["a"] == 1.0 and meter.first_bad() == (0, "b")


def test_means_and_bad_losses_of_all_processes(monkeypatch):
    # sums of a and b, number of updates, and (iteration 3, term b)
    other = torch.tensor([[6.0, 2.0, 2.0, 3 * 4096 + 1]], dtype=torch.float64)
    monkeypatch.setattr(meters, "all_gather_cat", lambda row: torch.cat([row, other]))
    meter = LossMeter()
    meter.update(tensors(a=1.0, b=1.0), 2)
    meter.update(tensors(a=1.0, b=1.0), 5)
    assert meter.read(across_processes=True) == {"a": 2.0, "b": 1.0}
    assert meter.first_bad() == (3, "b")


WORKER = """
import math, sys, torch
sys.path.insert(0, {root!r})
from utils.distributed import cleanup_distributed, get_rank, setup_distributed
from utils.meters import LossMeter
from utils.metrics import ConfusionMatrix
setup_distributed("cpu")
rank = get_rank()
confusion = ConfusionMatrix(3)
confusion.update(torch.tensor([rank, 1, 2]), torch.tensor([0, 1, 255]))
confusion.reduce()
assert confusion.compute().matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]], confusion.compute().matrix
meter = LossMeter()
meter.update(dict(a=torch.tensor(1.0 + rank), b=torch.tensor(math.nan if rank else 2.0)), 7)
read = meter.read(across_processes=True)
assert read["a"] == 1.5 and math.isnan(read["b"]), read
assert meter.first_bad() == (7, "b"), meter.first_bad()  # process 0 saw none itself
cleanup_distributed()
"""


@pytest.mark.timeout(120)
def test_two_processes_agree_on_metrics_and_losses(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER.format(root=str(Path(__file__).parents[2])))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]


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


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_rates():
    clock = Clock()
    meter = RateMeter(clock)
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
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01"), (86400, "1 day 0:00:00"), (-3, "0:00")],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text
