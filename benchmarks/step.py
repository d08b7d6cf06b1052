"""The whole training step of CIRKDV2 compared with that of plain logit distillation.

    python -m benchmarks.step --json step.json                  # CPU: crop 512x512, batch 4
    python -m benchmarks.step --device cuda                     # the recipes' 512x1024, batch 8

Teacher, student, losses, backward pass and optimiser of DeepLabV3-ResNet101 to two students, 19 classes, on random
data, with full banks and the default number of partners, without the loop's check of the gradients. Each way runs in a
separate process, as in training, and the best of its steps counts. The peak of memory includes networks, banks and
optimiser. A ratio without a bound on the device is information.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measured import PeakMemory, finish, machine, make_parser, synchronize, target
from engine.setup.tasks import DistillationTask
from engine.setup.teacher import prepare_teacher
from engine.training.optim import build_optimizer
from losses import METHODS, build_distiller
from losses.modules.memory_bank import MemoryBank
from models import build_model
from utils.amp import autocast
from utils.complexity import distilled_shapes
from utils.seed import set_deterministic
from utils.types import Step

TEACHER = ("deeplabv3", "resnet101")
STUDENTS = {
    "mobilenetv3_small": ("deeplabv3_mobilenet_ssseg", "mobilenetv3_small"),
    "resnet18": ("deeplabv3", "resnet18"),
}
CLASSES = 19


@dataclass(frozen=True)
class Way:
    """One way to take the step: a method with settings, precision and memory format of the networks."""

    method: str
    options: tuple[tuple[str, Any], ...] = ()
    amp: str = "off"
    channels_last: bool = False


WAYS = {
    "kd": Way("kd"),
    "cirkdv2": Way("cirkdv2"),
    "cirkdv2, bf16 relations": Way("cirkdv2", (("relation_dtype", "bfloat16"),)),
    "cirkdv2, bf16 channels_last": Way("cirkdv2", (("relation_dtype", "bfloat16"),), "bf16", True),
    "kd, bf16 channels_last": Way("kd", (), "bf16", True),
}
PLAIN, FULL, RELATIONS, HALF, PLAIN_HALF = WAYS


class Ratio(NamedTuple):
    """Seconds of one way over those of another, and the upper or lower bound on each device, None = no bound."""

    way: str
    other: str
    on_cpu: float | None
    on_gpu: float
    at_most: bool = True


RATIOS = {
    "CIRKDV2 / KD": Ratio(FULL, PLAIN, 1.5, 1.3),
    "CIRKDV2 with bf16 relations / KD": Ratio(RELATIONS, PLAIN, 1.25, 1.3),
    "CIRKDV2 / KD, both in bf16 channels_last": Ratio(HALF, PLAIN_HALF, None, 1.3),
    "fp32 / bf16 channels_last": Ratio(FULL, HALF, 1.4, 3.0, at_most=False),
}


@dataclass(frozen=True)
class Sizes:
    """Of the batch; crops are (height, width)."""

    crop: tuple[int, int]
    batch: int


def sizes_for(device: torch.device) -> Sizes:
    return Sizes((512, 1024), 8) if device.type == "cuda" else Sizes((512, 512), 4)


class Stepper:
    """A task with its optimiser, and the time that the parts of its steps take."""

    def __init__(self, student: str, way: Way, sizes: Sizes, device: torch.device) -> None:
        torch.manual_seed(0)
        self.way, self.device = way, device
        network, teacher = build_model(*STUDENTS[student], CLASSES), build_model(*TEACHER, CLASSES)
        config = METHODS[way.method].Config
        known = {field.name for field in fields(config)}
        distiller = build_distiller(
            way.method,
            num_classes=CLASSES,
            config=config(**{k: v for k, v in way.options if k in known}),
            **distilled_shapes(network, teacher, *sizes.crop),
        )
        teacher = prepare_teacher(teacher, device=device, amp=way.amp, channels_last=way.channels_last)
        self.task = DistillationTask(network, teacher, distiller).to(device).train()
        if way.channels_last:
            self.task.to(memory_format=torch.channels_last)
        options = {"kind": "sgd", "lr": 1e-3, "weight_decay": 1e-4, "momentum": 0.9}
        self.optimizer = build_optimizer(self.task, network.backbone.parameters(), **options)
        fill_banks(distiller)
        self.parts: dict[str, float] = {}

    def step(self, images: Tensor, target: Tensor) -> float:
        """Takes a step; returns its seconds and adds them, part by part, to `parts`."""
        marks = _Marks(self.device)
        with marks.of(self.task.teacher, "teacher"), marks.of(self.task.network, "student"):
            with autocast(self.device, self.way.amp):
                losses = self.task(images, target, Step())
        marks.lap("losses")
        sum(losses.values()).backward()
        marks.lap("backward")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.lap("optimiser")
        for name, seconds in marks.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + seconds
        return sum(marks.parts.values())


class _Marks:
    """Laps between marks. On a GPU every mark synchronises, a few microseconds of a step of many ms."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, float] = {}
        self._last = self._now()

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def lap(self, name: str) -> None:
        now = self._now()
        self.parts[name] = self.parts.get(name, 0.0) + now - self._last
        self._last = now

    @contextmanager
    def of(self, module: nn.Module, name: str) -> Iterator[None]:
        """Books a module's forward pass under a name, and the time before it under "losses"."""
        handles = [
            module.register_forward_pre_hook(lambda *_: self.lap("losses")),
            module.register_forward_hook(lambda *_: self.lap(name)),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def fill_banks(module: nn.Module) -> None:
    """Random rows of unit length in every bank, as after some thousand steps."""
    for bank in module.modules():
        if isinstance(bank, MemoryBank):
            rows = nn.functional.normalize(torch.randn(997, bank.dim, device=bank.queue.device), dim=1)
            for start in range(0, bank.num_queues * bank.size, len(rows)):
                part = bank.queue[start : min(start + len(rows), bank.num_queues * bank.size)]
                part.copy_(rows[: len(part)])
            bank.queue_count.fill_(bank.size)


def random_batch(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images like normalised ones, and labels in blocks of 32x32 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = 60 * torch.randn(sizes.batch, 3, *sizes.crop, generator=generator)
    blocks = [side // 32 + 1 for side in sizes.crop]
    target = torch.randint(0, CLASSES, (sizes.batch, *blocks), generator=generator)
    target = target.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : sizes.crop[0], : sizes.crop[1]]
    return images.to(device), target.contiguous().to(device)


def serve(connection: Connection, student: str, way: str, sizes: Sizes, device: torch.device, repeats: int) -> None:
    """Takes steps and sends the seconds of each, those of its parts, and the peak MiB so far.

    The peak is that of networks, banks, optimiser and steps beyond the memory of the process before.
    """
    set_deterministic(False)  # cuDNN searches for kernels as it does in a run
    torch.set_flush_denormal(True)  # as in a run
    peak = PeakMemory(device)
    stepper, batch = Stepper(student, WAYS[way], sizes, device), random_batch(sizes, device)
    peak.restart()  # building is not the step
    for _ in range(repeats):
        stepper.parts.clear()
        connection.send((stepper.step(*batch), dict(stepper.parts), peak.mib()))


def measure(student: str, way: str, sizes: Sizes, device: torch.device, repeats: int) -> tuple[float, dict, float]:
    """Seconds of the best of `repeats` steps, those of its parts, and peak MiB of all.

    In a separate process and one step right after the other, as in a run: if several ways take turns, caches are cold
    and the losses take twice as long.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, student, way, sizes, device, repeats), daemon=True)
    process.start()
    theirs.close()  # otherwise recv would block forever after a failure
    steps = [ours.recv() for _ in range(repeats)]
    process.join()
    seconds, parts, _ = min(steps, key=lambda answer: answer[0])
    return seconds, parts, steps[-1][2]


def run(device: torch.device, repeats: int, log: Callable[[str], None] = print) -> dict[str, Any]:
    """All measurements with their targets."""
    sizes = sizes_for(device)
    seconds, parts, memory, ratios, targets = {}, {}, {}, {}, {}
    on_gpu = device.type == "cuda"
    for student in STUDENTS:
        measured = {way: measure(student, way, sizes, device, repeats) for way in WAYS}
        seconds[student], parts[student], memory[student] = (
            {way: values[place] for way, values in measured.items()} for place in range(3)
        )
        ratios[student] = {name: seconds[student][r.way] / seconds[student][r.other] for name, r in RATIOS.items()}
        for name, ratio in RATIOS.items():
            bound = ratio.on_gpu if on_gpu else ratio.on_cpu
            if bound is not None:
                targets[f"{name}, {student}"] = target(ratios[student][name], bound, at_most=ratio.at_most)
        for way in WAYS:
            detail = ", ".join(f"{part} {value:.2f}" for part, value in parts[student][way].items())
            log(f"{student:18s} {way:28s} {seconds[student][way]:7.2f} s ({detail})  {memory[student][way]:.0f} MiB")
        log(f"{student:18s} " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios[student].items()))
    return {
        "benchmark": "step",
        "sizes": {"crop": list(sizes.crop), "batch": sizes.batch, "classes": CLASSES, "teacher": "-".join(TEACHER)},
        "machine": machine(device=device.type),
        "seconds": seconds,
        "parts": parts,
        "ratios": ratios,
        "memory_mib": memory,
        "targets": targets,
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__, device=True)
    parser.add_argument("--repeats", type=int, help="steps of every way, 2 or more (default: 2 on a CPU, 10 on a GPU)")
    args = parser.parse_args()
    device = torch.device(args.device)
    repeats = args.repeats or (10 if device.type == "cuda" else 2)
    if repeats < 2:
        parser.error(f"--repeats {repeats}: expected at least 2, because first steps load kernels")
    result = run(device, repeats)
    finish(result, args.json)


if __name__ == "__main__":
    main()
