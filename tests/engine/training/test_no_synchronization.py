"""Between two log intervals the training loop never asks the device for a value."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import engine.training.loop
from benchmarks.host_reads import HostReads
from engine.config.schema import BaselineConfig
from engine.run.directory import RunDirectory
from engine.run.state import TrainState
from engine.setup.fit import prepare
from engine.setup.tasks import DistillationTask
from engine.setup.teacher import prepare_teacher
from engine.training.monitor import TrainingMonitor
from engine.training.stopping import LAG, RankFlags
from losses import METHODS, build_combined, build_distiller
from losses.modules.memory_bank import MemoryBank
from models import build_model
from tests.configs import make_config
from utils.complexity import distilled_shapes
from utils.types import Batch

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CLASSES, CROP = 4, (40, 56)
BANKS = {"pixel_memory_size": 30, "region_memory_size": 10, "channel_memory_size": 300}
WARM_UP = 2  # steps: kernels are loaded, what is sent to the device once is sent, and the clock starts

FLAGS = {
    "lr": 0.01,
    "head_lr_mult": 10.0,
    "warmup_iters": 2,
    "clip_grad": 1.0,
    "batch_size": 2,
    "loss_health": True,  # measured at log intervals alone
    "max_iterations": 1000,
} | dict.fromkeys(("log_iter", "save_per_iters", "val_per_iters"), 1000)
ALL = {"channels_last": True, "grad_checkpointing": True, "ema_decay": 0.9, "accumulation_steps": 2}
LOSS = {"class_weights": "balanced", "ohem": "fraction:0.3", "dice": 0.5, "label_smoothing": 0.1}
VARIANTS = {
    "channels_last": {"channels_last": True},
    "grad_checkpointing": {"grad_checkpointing": True},
    "ema": {"ema_decay": 0.9},
    "accumulation": {"accumulation_steps": 2},
    "adamw_time_budget": {"optimizer_type": "adamw", "head_lr_mult": 1.0, "clip_grad": 0.0, "max_seconds": 1e6},
    "task_loss": LOSS,
    "threshold_accumulated": {"ohem": "threshold:0.3", "accumulation_steps": 2},
    "bf16": {"amp": "bf16"},
    "bf16_all": ALL | LOSS | {"amp": "bf16"},
    "fp16_all": ALL | LOSS | {"amp": "fp16"},
}
SKD = "skd+adversarial"  # the discriminator has its own optimiser
ALONE = [*sorted(METHODS), SKD]
CASES = [pytest.param(method, {}, id=method) for method in ALONE]
CASES += [pytest.param("cirkdv2", flags, id=f"cirkdv2-{name}") for name, flags in VARIANTS.items()]
CASES += [pytest.param(SKD, VARIANTS["fp16_all"], id=f"{SKD}-fp16_all")]
HALF = [pytest.param(method, {"amp": "bf16"}, id=f"{method}-bf16") for method in ALONE if method != "cirkdv2"]


def config_of(flags: dict[str, Any], device: torch.device) -> BaselineConfig:
    """A run's config; there is no fp16 on the CPU, where its scaler runs beside float32."""
    no_half = {"amp": "off"} if flags.get("amp") == "fp16" and device.type == "cpu" else {}
    return make_config(**FLAGS | flags | no_half)


def build_training(method: str, config: BaselineConfig, device: torch.device, scaled: bool) -> TrainState:
    """A small student and teacher with methods at their published weights, as `fit` puts them together.

    Args:
        method: one, or several joined by +.
        config: as `prepare` takes them.
        device: where the training is put.
        scaled: gives it a scaler, with so small a scale that no step is skipped.
    """
    torch.manual_seed(0)
    student, teacher = build_model("psp_mobile", "mobilenetv3_small", CLASSES), build_model("psp", "resnet18", CLASSES)
    shapes = distilled_shapes(student, teacher, *CROP)
    if method == "cirkdv2":
        distiller = build_distiller(method, num_classes=CLASSES, config=BANKS, **shapes)
    else:
        fields = {name: METHODS[name].Config.__dataclass_fields__ for name in method.split("+")}
        options = {name: {k: v for k, v in BANKS.items() if k in known} for name, known in fields.items()}
        distiller = build_combined(options, num_classes=CLASSES, **shapes)
    teacher = prepare_teacher(
        teacher, device=device, amp=config.machine.amp, channels_last=config.machine.channels_last
    )
    weights = torch.linspace(0.5, 2.0, CLASSES, dtype=torch.float64) if config.loss.class_weights else None
    task = DistillationTask(student, teacher, distiller, config.optim, loss=config.loss, class_weights=weights)
    training = prepare(task, config, device)
    if scaled:
        training.scaler = torch.amp.GradScaler(device.type, init_scale=16.0)
    return training


def random_batches(count: int, pinned: bool) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for index in range(count):
        images = torch.randint(0, 256, (2, 3, *CROP), dtype=torch.uint8, generator=generator)
        target = torch.randint(0, CLASSES, (2, *CROP), dtype=torch.uint8, generator=generator)
        target[:, :3] = 255
        fields = images, target, torch.tensor([CROP, (37, 50)]), torch.arange(2 * index, 2 * index + 2)
        batches.append(Batch(*(field.pin_memory() if pinned else field for field in fields)))
    return batches


class _Ended(Exception):
    """All steps are done."""


class Watch:
    """Takes the place of the loop's profiler, which hears of every step: watches those after the first, ends the loop.

    Args:
        way: is entered after WARM_UP steps.
        steps: how many are watched.
    """

    def __init__(self, way: AbstractContextManager, steps: int) -> None:
        self.way, self.steps, self.done = way, steps, 0
        self.watched = ExitStack()

    def step_done(self, health: dict) -> None:
        self.done += 1
        if self.done == WARM_UP:
            self.watched.enter_context(self.way)
        elif self.done == WARM_UP + self.steps:
            raise _Ended


def train_watched(
    training: TrainState,
    config: BaselineConfig,
    device: torch.device,
    batches: Sequence[Batch],
    way: AbstractContextManager,
) -> None:
    """The training loop itself on these batches, far from any log interval; all but the first steps inside `way`."""
    watch = Watch(way, len(batches) // config.optim.accumulation_steps - WARM_UP)
    with pytest.raises(_Ended), watch.watched, pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingMonitor, "step_done", watch.step_done)
        engine.training.loop.train(
            training,
            batches,
            config=config,
            device=device,
            run=RunDirectory(Path("not written to"), "student"),
            logger=None,
        )


def check_trained(training: TrainState, before: list[Tensor], steps: int) -> None:
    """The steps did what they do in a run, so that all of it was watched."""
    network = training.task.network
    assert training.iteration == steps
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(math.isfinite(loss) for loss in training.meter.read().values())
    banks = [module for module in training.task.modules() if isinstance(module, MemoryBank)]
    assert all(bank.queue_count.sum() > 0 for bank in banks)
    if training.ema is not None:
        assert int(training.ema.n_averaged) == steps
        pairs = zip(training.ema.module.parameters(), network.parameters(), strict=True)
        assert any(not torch.equal(average, value) for average, value in pairs)


@pytest.mark.parametrize(("method", "flags"), CASES)
def test_steps_read_no_value(method, flags, monkeypatch):
    # A way that a CPU alone takes, and which looks at the size of its rows first.
    monkeypatch.setattr("losses.relation.autograd.symmetric_suits", lambda *_: False)
    config = config_of(flags, CPU)
    training = build_training(method, config, CPU, scaled=flags.get("amp") == "fp16")
    batches = random_batches((WARM_UP + 1) * config.optim.accumulation_steps, pinned=False)
    before = [p.detach().clone() for p in training.task.network.parameters()]
    host = [batch.positions for batch in batches]
    if training.ema is not None:
        host.append(training.ema.n_averaged)
    train_watched(training, config, CPU, batches, HostReads(refuse=True, host=host))
    check_trained(training, before, WARM_UP + 1)


def test_what_processes_agree_on_is_read_steps_later(monkeypatch):
    """A GPU's way; its events and pinned memory are stood in for, and so is the other process."""
    copies, reads, wanted = [], HostReads(refuse=True, host=[]), False

    class Event:
        def record(self) -> None:
            self.copy = copies[-1]

        def synchronize(self) -> None:
            reads.host.append(self.copy)  # has arrived by now

    def empty(*size: int, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        assert pin_memory
        copies.append(torch.empty(*size, dtype=dtype))
        return copies[-1]

    def full(size: tuple, value: float, device: object) -> Tensor:
        return torch.full(size, value)

    cuda = SimpleNamespace(Event=Event)
    torch_of_a_gpu = SimpleNamespace(empty=empty, full=full, stack=torch.stack, bool=torch.bool, cuda=cuda)
    monkeypatch.setattr("engine.training.stopping.torch", torch_of_a_gpu)
    pretend_two_processes(monkeypatch)
    agreement = RankFlags(SimpleNamespace(type="cuda"), lambda: wanted)
    stops, answers = [], []
    with reads:
        for step in range(LAG + 4):
            wanted = step >= 2
            answers.append(agreement.exchange(torch.tensor(step == 1)))
            stops.append(agreement.stop)
    assert [bool(answer) for answer in answers] == [step == 1 for step in range(LAG + 4)]
    assert stops == [step >= 2 + LAG for step in range(LAG + 4)]


def pretend_two_processes(monkeypatch) -> None:
    """For the agreement alone."""
    monkeypatch.setattr("engine.training.stopping.get_world_size", lambda: 2)
    monkeypatch.setattr("engine.training.stopping.all_reduce_sum", lambda tensor: tensor.clone())


class RefusedWaits:
    """Refuses what torch knows to wait for a GPU, and traces the rest."""

    def __init__(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        self.profile = torch.profiler.profile(activities=activities)

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        self.profile.__enter__()
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *error: object) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.profile.__exit__(*error)


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "flags"), CASES + HALF)
def test_steps_on_a_gpu_do_not_wait(method, flags, monkeypatch):
    pretend_two_processes(monkeypatch)
    config = config_of(flags, GPU)
    training = build_training(method, config, GPU, scaled=flags.get("amp") == "fp16")
    steps = WARM_UP + LAG + 1  # so many that the loop gets to know what was agreed on
    batches = random_batches(steps * config.optim.accumulation_steps, pinned=True)
    before = [p.detach().clone() for p in training.task.network.parameters()]
    waits = RefusedWaits()
    train_watched(training, config, GPU, batches, waits)
    calls = {event.key: event.count for event in waits.profile.key_averages()}
    assert calls.get("cudaStreamSynchronize", 0) == 0, calls
    assert calls.get("cudaDeviceSynchronize", 0) <= 1  # the profiler's own, at its end
    check_trained(training, before, steps)
