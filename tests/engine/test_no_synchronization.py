"""A step of training never asks the device for a value: forward, losses, backward, optimiser."""

import math

import pytest
import torch
from torch import Tensor

from benchmarks.host_reads import HostReadError, HostReads
from engine.amp import grad_scaler
from engine.finite import FiniteGuard
from engine.interrupt import StepAgreement
from engine.optim import build_optimizer, build_separate_optimizer
from engine.state import Training
from engine.task import DistillationTask
from engine.teacher import prepare_teacher
from engine.train import Settings, _step
from losses import METHODS, build_combined, build_distiller
from models import build_model
from utils.complexity import feature_shapes

CLASSES, CROP = 4, (40, 56)
BANKS = {"pixel_memory_size": 30, "region_memory_size": 10, "channel_memory_size": 300}


def build_training(method: str, device: torch.device, amp: str = "off") -> tuple[Training, Settings]:
    """A small student and teacher with a method at its published weights, as `fit` puts them together."""
    torch.manual_seed(0)
    student, teacher = build_model("psp_mobile", "mobilenetv3_small", CLASSES), build_model("psp", "resnet18", CLASSES)
    shapes = [feature_shapes(network, *CROP)["features"] for network in (student, teacher)]
    known = METHODS[method].Config.__dataclass_fields__
    options = {name: size for name, size in BANKS.items() if name in known}
    distiller = (
        build_distiller(method, *shapes, CLASSES, options)
        if method == "cirkdv2"
        else build_combined({method: options}, *shapes, CLASSES)
    )
    task = DistillationTask(student, prepare_teacher(teacher, device=device, amp=amp), distiller).to(device).train()
    options = {"kind": "sgd", "lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9}
    separate = task.separate_parameters()
    optimizer = build_optimizer(task, student.backbone.parameters(), **options, separate=separate)
    training = Training(task, optimizer, grad_scaler(device, amp), None, build_separate_optimizer(separate))
    settings = Settings(
        max_iterations=10,
        max_seconds=None,
        batch_size=2,
        accumulation_steps=2,
        lr=0.01,
        warmup_iters=0,
        clip_grad=1.0,
        amp=amp,
        log_iter=10,
        save_per_iters=10,
        val_per_iters=10,
    )
    return training, settings


def micro_batches(device: torch.device, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    batches = []
    for _ in range(count):
        target = torch.randint(0, CLASSES, (2, *CROP))
        target[:, :3] = 255
        batches.append(((60 * torch.randn(2, 3, *CROP)).to(device), target.to(device)))
    return batches


def guard_on_device(training: Training, device: torch.device) -> FiniteGuard:
    """As on a GPU: what is not finite is masked there, and the host does not ask."""
    return FiniteGuard(training, device, StepAgreement(device, lambda: False), on_host=False)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_reads_no_value(method, monkeypatch):
    # A way that a CPU alone takes, and which looks at the size of its rows first.
    monkeypatch.setattr("losses.relation_function.symmetric_suits", lambda *_: False)
    training, settings = build_training(method, torch.device("cpu"))
    batches = micro_batches(torch.device("cpu"))
    guard = guard_on_device(training, torch.device("cpu"))
    before = [p.detach().clone() for p in training.task.network.parameters()]
    for training.iteration in range(2):  # banks are empty in the first and not in the second
        guard.begin()
        with HostReads(refuse=True):
            _step(training.task, training, batches, settings, torch.device("cpu"), guard)
    assert any(not torch.equal(a, b) for a, b in zip(before, training.task.network.parameters(), strict=True))
    assert all(math.isfinite(loss) for loss in training.meter.read().values())


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.long().bincount(),
        lambda x: x.long().repeat_interleave(x.long()),
        lambda x: x.index_put((x > 0,), x[0]),
    ],
)
def test_reads_are_noticed(read):
    x = torch.rand(5)
    with HostReads(refuse=True), pytest.raises(HostReadError):
        read(x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_steps_on_a_gpu_do_not_wait(method, amp):
    device = torch.device("cuda")
    training, settings = build_training(method, device, amp)
    batches = micro_batches(device)
    guard = guard_on_device(training, device)
    guard.begin()
    _step(training.task, training, batches, settings, device, guard)  # libraries load their kernels
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.profiler.profile(activities=activities) as profile:
            for training.iteration in range(1, 4):
                _step(training.task, training, batches, settings, device, guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls.get("cudaStreamSynchronize", 0) == 0, calls
    assert calls.get("cudaDeviceSynchronize", 0) <= 1  # the profiler's own, at its end
