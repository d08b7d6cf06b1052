"""What a run will take, before it is started: memory, time and disk from a few measured steps at its real sizes."""

import multiprocessing
import socket
import time
from dataclasses import asdict, replace

import torch
from torch import nn

from dataset.loading.loaders import build_eval_loader
from engine.config.protocol import default_protocol
from engine.config.schema import TrainConfig
from engine.evaluation.evaluator import evaluate
from engine.run.directory import Run
from engine.run.space import tensor_bytes
from engine.run.state import TrainState
from engine.setup.data import Data, train_loader
from engine.setup.dry_run_report import (
    MIB,
    Measured,
    Row,
    disk_rows,
    format_bytes,
    memory_rows,
    print_table,
    remedies,
    time_rows,
)
from engine.setup.fit import prepare
from engine.setup.tasks import SegmentationTask
from engine.training.ddp import distribute
from engine.training.loop import take_step
from engine.training.monitor import peak_rss_mib
from engine.training.nonfinite import NonFiniteCheck
from engine.training.stopping import RankFlags
from losses.modules.memory_bank import MemoryBank
from models import build_model
from utils.compiling import uncompiled
from utils.complexity import count_macs, count_parameters
from utils.distributed import all_gather_object, broadcast_object, get_rank, get_world_size, is_main_process
from utils.flags import record
from utils.memory import machine_memory, own_bytes
from utils.seed import seed_everything

WARMUP_STEPS, STEPS, SLOW_STEPS = 2, 5, 3
SLOW_STEP_SECONDS = 10.0  # steps of that length are measured SLOW_STEPS times
VALIDATION_IMAGES = 3  # after one that is not counted


def print_estimate(task: SegmentationTask, data: Data, config: TrainConfig, run: Run, device: torch.device) -> None:
    """Sets the run up as `fit` does, measures some steps, prints a table and whether the run fits; writes nothing.

    Called by all processes together; the main one prints.

    Args:
        task, data, config, run, device: as for `fit`.
    """
    rows = _cost_rows(task, data, config)
    try:
        measured, sizes = _measure(task, data, config, run, device)
    except torch.OutOfMemoryError as error:
        images = config.optim.batch_size // (config.optim.accumulation_steps * get_world_size())
        total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_memory()
        problem = (
            f"the memory of {format_bytes(total)} was full in a step of {images} image(s) of "
            f"{'x'.join(map(str, config.optim.crop_size))} a process. {remedies(config)}"
        )
        if get_world_size() > 1:  # the others wait for this one: only an error ends them
            raise torch.OutOfMemoryError(f"{problem} ({error})") from error
        print_table(rows, [problem])
        return
    everyone = all_gather_object(asdict(measured))
    if is_main_process():
        all_measured = [Measured(**values) for values in everyone]
        memory, memory_problems = memory_rows(all_measured, config, device)
        disk, disk_problems = disk_rows(sizes, config, run)
        validated = 0 if data.val is None else len(data.val)
        rows += [*memory, *time_rows(all_measured, validated, config, run.iteration), *disk]
        print_table(rows, memory_problems + disk_problems)


def _cost_rows(task: SegmentationTask, data: Data, config: TrainConfig) -> list[Row]:
    """Networks and banks; before the network is compiled, since multiply-adds are counted without a device."""
    networks = {"network": task.network}
    if hasattr(task, "teacher"):  # its own may be folded and in half precision: one like it is counted
        teacher = build_model(config.networks.teacher_model, config.networks.teacher_backbone, data.train.num_classes)
        networks = {"student": task.network, "teacher": teacher}
    rows = [
        (
            name,
            f"{count_parameters(network) / 1e6:.2f} M parameters, "
            f"{count_macs(network, *config.optim.crop_size, need_aux=False) / 1e9:.2f} G multiply-adds for a crop",
        )
        for name, network in networks.items()
    ]
    rows.append(("precision", "float32" if config.machine.amp == "off" else config.machine.amp))
    banks = [module for module in task.modules() if isinstance(module, MemoryBank)]
    if banks:
        rows.append(("memory banks", f"{format_bytes(sum(bank.queue.nbytes for bank in banks))} when full"))
    return rows


def _measure(
    task: SegmentationTask, data: Data, config: TrainConfig, run: Run, device: torch.device
) -> tuple[Measured, dict[str, int]]:
    """Takes the steps and predicts some images; returns what they took and the bytes of the files of the run."""
    training = prepare(task, config, device)
    seed_everything(config.machine.seed, get_rank())
    training.iteration = run.iteration
    model = distribute(training.task, device)
    training.task.train()
    first, waits, computes, workers = _time_steps(model, training, data, config, device)
    read = _read_seconds(data, config, device)
    validate, validate_read = 0.0, 0.0
    if not config.run.skip_val:
        validate, validate_read = _validation_seconds(training, data, config, device)

    state = training.state(record(config), device)
    sizes = {"state": tensor_bytes(state), "checkpoint": tensor_bytes(training.evaluated_network.state_dict())}
    banks_to_fill = 0
    if device.type == "cuda":
        allocated, needs = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        has = torch.cuda.get_device_properties(device).total_memory
    else:
        allocated, has = int(peak_rss_mib() * MIB), machine_memory()
        banks_to_fill = sum(
            int(bank.queue.nbytes * (1 - bank.queue_count.sum().item() / (bank.num_rings * bank.size)))
            for bank in task.modules()
            if isinstance(bank, MemoryBank)
        )
        needs = allocated + banks_to_fill + workers
    timings = (first, _median(waits), _median(computes), read, validate, validate_read)
    return Measured(*timings, socket.gethostname(), needs, has, allocated, banks_to_fill, workers), sizes


def _time_steps(
    model: nn.Module, training: TrainState, data: Data, config: TrainConfig, device: torch.device
) -> tuple[float, list[float], list[float], int]:
    """Seconds of the first step, of the measured steps' waiting and computing, and the loader processes' bytes."""
    last = training.iteration + WARMUP_STEPS + STEPS
    far = replace(config, optim=replace(config.optim, max_iterations=last))
    batches = iter(train_loader(data, far, device, training.iteration))
    nonfinite = NonFiniteCheck(training, device, RankFlags(device, lambda: False))
    durations: list[tuple[float, float]] = []
    ready = [0.0]

    def mark() -> None:
        _synchronize(device)
        ready[0] = time.perf_counter()

    steps = WARMUP_STEPS + STEPS
    while len(durations) < steps:
        start = time.perf_counter()
        take_step(model, training, batches, config, device, mark, nonfinite)
        _synchronize(device)
        durations.append((ready[0] - start, time.perf_counter() - ready[0]))
        if len(durations) == WARMUP_STEPS and broadcast_object(sum(durations[-1])) > SLOW_STEP_SECONDS:
            steps = WARMUP_STEPS + SLOW_STEPS
    workers = sum(own_bytes(child.pid) for child in multiprocessing.active_children())
    waits, computes = (list(values) for values in zip(*durations[WARMUP_STEPS:], strict=True))
    return sum(durations[0]), waits, computes, workers


def _read_seconds(data: Data, config: TrainConfig, device: torch.device) -> float:
    """Seconds that reading one training sample takes, in this process and after a first batch."""
    optim = replace(config.optim, max_iterations=2, accumulation_steps=1)
    alone = replace(config, optim=optim, data=replace(config.data, workers=0))
    batches = iter(train_loader(data, alone, device, 0))
    next(batches)
    start = time.perf_counter()
    images = next(batches).images.shape[0]
    return (time.perf_counter() - start) / images


def _validation_seconds(
    training: TrainState, data: Data, config: TrainConfig, device: torch.device
) -> tuple[float, float]:
    """Seconds of one image's prediction and of its reading."""
    network = training.evaluated_network
    predictor = default_protocol(training.task.network.model_name, data.val.name).predictor()
    loader = build_eval_loader(data.val, limit=1 + VALIDATION_IMAGES)
    start = time.perf_counter()
    batches = list(loader)  # on every process the same images: few, and a data set may have fewer than processes
    read = (time.perf_counter() - start) / len(batches)
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        with uncompiled():
            evaluate(network, [batch], data.val.num_classes, device, predictor=predictor, amp=config.machine.amp)
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return _median(seconds[1:] or seconds), read


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
