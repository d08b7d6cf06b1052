"""--estimate: what a run will take in memory, time and disk, from a few real steps at its sizes."""

import multiprocessing
import socket
import time
from dataclasses import asdict, dataclass, replace
from statistics import median

import torch

from dataset.loading.loaders import build_eval_loader
from engine.config.protocol import default_protocol
from engine.config.schema import TrainConfig
from engine.evaluation.evaluator import evaluate
from engine.evaluation.inference import build_predictor
from engine.run.checkpointer import CHECKPOINTS, MIB, disk_space, state_bytes, tensor_bytes
from engine.run.directory import RunDirectory
from engine.run.state import TrainState
from engine.setup.data import Data, train_loader
from engine.setup.fit import prepare
from engine.setup.tasks import SegmentationTask
from engine.training.ddp import distribute
from engine.training.nonfinite import NonFiniteCheck
from engine.training.step import train_step
from engine.training.stopping import StopController
from losses.modules.memory_bank import MemoryBank
from models import build_model
from utils.compiling import uncompiled
from utils.complexity import count_macs, count_parameters
from utils.distributed import all_gather_object, broadcast_object, get_rank, get_world_size, is_main_process
from utils.memory import machine_memory, own_bytes, peak_rss_mib
from utils.meters import format_duration
from utils.seed import seed_everything

WARMUP_STEPS, STEPS, SLOW_STEPS = 2, 5, 3
SLOW_STEP_SECONDS = 10.0  # steps of that length are measured SLOW_STEPS times
VALIDATION_IMAGES = 3  # after one that is not counted
MEMORY_LIMIT = 0.95  # of the device's or machine's memory
GIB = 1 << 30
Row = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """What one process measured: medians in seconds, and bytes.

    Attributes:
        first: the first step, in which kernels are chosen and compiled.
        wait, compute: a step until its samples are on the device, and from there to its end.
        read: a loader reads a training sample.
        validate, validate_read: prediction of an image, and reading it; 0 without validation.
        host: name of the machine.
        needs, has: memory this process takes at most, and that of its GPU or, on the CPU, of the machine.
        details: how `needs` comes about.
    """

    first: float
    wait: float
    compute: float
    read: float
    validate: float
    validate_read: float
    host: str
    needs: int
    has: int
    details: str


def print_estimate(
    task: SegmentationTask, data: Data, config: TrainConfig, run: RunDirectory, device: torch.device
) -> None:
    """Sets the run up as `fit` does, takes some steps, prints a table and whether the run fits; writes nothing.

    Called by all processes together; the main one prints.

    Args:
        task, data, config, run, device: as for `fit`.
    """
    rows = _cost_rows(task, data, config)
    state = prepare(task, config, device)
    seed_everything(config.machine.seed, get_rank())
    state.iteration = run.iteration
    try:
        everyone = all_gather_object(asdict(_measure(state, data, config, device)))
    except torch.OutOfMemoryError as error:
        images = config.optim.batch_size // (config.optim.accumulation_steps * get_world_size())
        crop = "x".join(map(str, config.optim.crop_size))
        problem = f"the memory was full in a step of {images} image(s) of {crop} a process. {remedies(config)}"
        if get_world_size() > 1:  # the others wait for this one: only an error ends them
            raise torch.OutOfMemoryError(f"{problem} ({error})") from error
        print_table(rows, [problem])
        return
    if is_main_process():
        measured = [Measured(**values) for values in everyone]
        memory, memory_problems = memory_rows(measured, config, device)
        disk, disk_problems = disk_rows(state, config, run)
        validated = 0 if data.val is None else len(data.val)
        rows += [*memory, *time_rows(measured, validated, config, run.iteration), *disk]
        print_table(rows, memory_problems + disk_problems)


def _cost_rows(task: SegmentationTask, data: Data, config: TrainConfig) -> list[Row]:
    """Networks and banks; before the network is compiled, since MACs are counted without a device."""
    networks = {"network": task.network}
    if hasattr(task, "teacher"):  # its own may be folded and in half precision: one like it is counted
        teacher = build_model(config.networks.teacher_model, config.networks.teacher_backbone, data.train.num_classes)
        networks = {"student": task.network, "teacher": teacher}
    rows = [
        (
            name,
            f"{count_parameters(network) / 1e6:.2f} M parameters, "
            f"{count_macs(network, *config.optim.crop_size, need_aux=False) / 1e9:.2f} GMACs for a crop",
        )
        for name, network in networks.items()
    ]
    rows.append(("precision", "float32" if config.machine.amp == "off" else config.machine.amp))
    banks = [module for module in task.modules() if isinstance(module, MemoryBank)]
    if banks:
        rows.append(("memory banks", f"{format_bytes(sum(bank.queue.nbytes for bank in banks))} when full"))
    return rows


def _measure(state: TrainState, data: Data, config: TrainConfig, device: torch.device) -> Measured:
    state.task.train()
    model = distribute(state.task, device)
    last = state.iteration + WARMUP_STEPS + STEPS
    longer = replace(config, optim=replace(config.optim, max_iterations=last))
    batches = iter(train_loader(data, longer, device, state.iteration))
    nonfinite = NonFiniteCheck(state, device, StopController(last, None, device).exchange)
    ready, waits, computes, steps = [], [], [], WARMUP_STEPS + STEPS
    while len(waits) < steps:
        start = _now(device)
        train_step(model, state, batches, config, device, nonfinite, lambda: ready.append(_now(device)))
        waits.append(ready[-1] - start)
        computes.append(_now(device) - ready[-1])
        if len(waits) == WARMUP_STEPS and broadcast_object(waits[-1] + computes[-1]) > SLOW_STEP_SECONDS:
            steps = WARMUP_STEPS + SLOW_STEPS
    loaders = sum(own_bytes(child.pid) for child in multiprocessing.active_children())
    validate, validate_read = (0.0, 0.0) if config.run.skip_val else _validation_seconds(state, data, config, device)
    timings = (waits[0] + computes[0], median(waits[WARMUP_STEPS:]), median(computes[WARMUP_STEPS:]))
    timings += (_read_seconds(data, config, device),)
    memory = _memory(state, loaders, device)
    return Measured(*timings, validate, validate_read, socket.gethostname(), *memory)


def _memory(state: TrainState, loaders: int, device: torch.device) -> tuple[int, int, str]:
    """(needed, there is, details) of this process; `loaders` are the bytes of its loaders."""
    if device.type == "cuda":
        needs, has = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        return needs, has, f"{format_bytes(torch.cuda.max_memory_allocated(device))} allocated"
    own = int(peak_rss_mib() * MIB)
    unwritten = sum(  # pages of a bank take memory once they are written
        int(bank.queue.nbytes * (1 - bank.queue_count.sum().item() / (bank.num_queues * bank.size)))
        for bank in state.task.modules()
        if isinstance(bank, MemoryBank)
    )
    details = f"a process {format_bytes(own)}, its loaders {format_bytes(loaders)}"
    details += f", banks yet to fill {format_bytes(unwritten)}" if unwritten else ""
    return own + unwritten + loaders, machine_memory(), details


def _read_seconds(data: Data, config: TrainConfig, device: torch.device) -> float:
    """Seconds of reading one training sample, in this process and after a first batch: loaders have read ahead."""
    optim = replace(config.optim, max_iterations=2, accumulation_steps=1)
    batches = iter(train_loader(data, replace(config, optim=optim, data=replace(config.data, workers=0)), device, 0))
    next(batches)
    start = _now(device)
    images = len(next(batches).images)
    return (_now(device) - start) / images


def _validation_seconds(
    state: TrainState, data: Data, config: TrainConfig, device: torch.device
) -> tuple[float, float]:
    """Seconds of one image's prediction and of its reading."""
    predictor = build_predictor(default_protocol(state.task.network.model_name, data.val.name))
    start = _now(device)
    batches = list(build_eval_loader(data.val, limit=1 + VALIDATION_IMAGES))  # the same images on every process
    read = (_now(device) - start) / len(batches)
    seconds = []
    for batch in batches:
        start = _now(device)
        with uncompiled():
            evaluate(
                state.evaluated_network,
                [batch],
                data.val.num_classes,
                device,
                predictor=predictor,
                amp=config.machine.amp,
            )
        seconds.append(_now(device) - start)
    return median(seconds[1:] or seconds), read


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_rows(measured: list[Measured], config: TrainConfig, device: torch.device) -> tuple[list[Row], list[str]]:
    """Memory of the fullest GPU or machine, and what is wrong with it."""
    groups: dict[object, list[Measured]] = {}
    for index, m in enumerate(measured):
        groups.setdefault(index if device.type == "cuda" else m.host, []).append(m)
    fullest = max(groups.values(), key=lambda group: sum(m.needs for m in group) / group[0].has)
    needs, has = sum(m.needs for m in fullest), fullest[0].has
    where = f"GPU ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "machine"
    row = (
        f"memory of the {where}",
        f"{format_bytes(needs)} of {format_bytes(has)}: {len(fullest)} process(es), {fullest[0].details}",
    )
    if needs <= MEMORY_LIMIT * has:
        return [row], []
    return [row], [
        f"{format_bytes(needs)} of memory are needed and the {where} has {format_bytes(has)}, of which "
        f"{MEMORY_LIMIT:.0%} can be counted on. {remedies(config)}"
    ]


def time_rows(measured: list[Measured], validation_images: int, config: TrainConfig, start_iteration: int) -> list[Row]:
    """Seconds of a step by part, of the validation and of the run; the slowest process counts."""
    names = ("first", "wait", "compute", "read", "validate", "validate_read")
    first, wait, compute, read, predict, decode = (max(getattr(m, name) for m in measured) for name in names)
    workers, images = config.data.workers, config.optim.batch_size // len(measured)
    step = wait + compute
    rows = [
        ("first step", f"{first:.3f} s"),
        ("step", f"{step:.3f} s: data {wait:.3f}, forward, backward and update {compute:.3f}"),
    ]
    rows.append(("reading a sample", f"{read * 1e3:.1f} ms on one core; {images} a step, {workers} loader(s)"))
    if workers and read * images / workers > step:
        step = read * images / workers
        rows.append(("step, waiting for data", f"{step:.3f} s: the loaders are slower than the network"))
    remaining = iterations = max(0, config.optim.max_iterations - start_iteration)
    if config.optim.max_seconds is not None:
        iterations = min(remaining, int(config.optim.max_seconds / step))
        rows.append(("iterations", f"{iterations} of {remaining} fit into --max-seconds {config.optim.max_seconds:g}"))
    total = iterations * step
    rows.append(("training", f"{iterations} iterations, {format_duration(total)}"))
    if not config.run.skip_val:
        interval = config.run.val_per_iters
        image = max(predict, decode / workers) if workers else predict + decode
        once = image * -(-validation_images // len(measured))
        end = start_iteration + iterations
        times = end // interval - start_iteration // interval + (iterations > 0 and end % interval != 0)
        text = f"{times} times {format_duration(once)}: {validation_images} images, {image * 1e3:.0f} ms each"
        rows.append(("validation", text))
        total += times * once
    rows.append(("in total", f"{format_duration(total)}, saving apart"))
    return rows


def disk_rows(state: TrainState, config: TrainConfig, run: RunDirectory) -> tuple[list[Row], list[str]]:
    """Space that the run's files take, beside what is free, and what is wrong with it."""
    needed, available = disk_space(state, run, checkpoints=1 if config.run.skip_val else CHECKPOINTS)
    one, weights = state_bytes(state), tensor_bytes(state.evaluated_network.state_dict())
    row = (
        "disk",
        f"state {format_bytes(one)}, checkpoint {format_bytes(weights)}; {format_bytes(needed - one)} in total, "
        f"{format_bytes(needed)} while saving, of {format_bytes(available)} free",
    )
    if needed <= available:
        return [row], []
    return [row], [
        f"the disk is too small: saving takes {format_bytes(needed)} and {run.folder} has {format_bytes(available)}. "
        "Choose another --save-dir, or smaller memory banks."
    ]


def remedies(config: TrainConfig) -> str:
    """What takes less memory, of what is not in use."""
    ways = ["a smaller --batch-size", "more --accumulation-steps", "a smaller --crop-size"]
    ways += ["--amp bf16"] * (config.machine.amp == "off")
    ways += ["--grad-checkpointing"] * (not config.run.grad_checkpointing)
    return f"Try {', '.join(ways[:-1])} or {ways[-1]}."


def print_table(rows: list[Row], problems: list[str]) -> None:
    """Prints the rows, and that it fits where there is no problem."""
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:{width}s}  {text}")
    print("fits: " + (f"no. {' '.join(problems)}" if problems else "yes"), flush=True)


def format_bytes(count: float) -> str:
    """MiB, or GiB from one on."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
