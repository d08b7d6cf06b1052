"""How an estimate is told: what processes measured, as rows of a table, and what does not fit."""

import shutil
from dataclasses import dataclass

import torch

from engine.config.schema import TrainConfig
from engine.run.directory import Run
from engine.run.space import CHECKPOINTS, STATES
from utils.files import previous_of
from utils.meters import format_duration

MEMORY_LIMIT = 0.95  # of the device's or machine's memory
MIB, GIB = 1 << 20, 1 << 30
Row = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """What one process measured.

    Attributes:
        first: seconds of the first step, in which kernels are chosen and compiled.
        wait, compute: seconds of a step until its samples are on the device, and from there to its end; medians.
        read: seconds in which one loader process reads one training sample.
        validate, validate_read: seconds of an image's prediction, and of its reading; 0 without validation.
        host: name of the machine.
        needs, has: bytes of memory this process takes at most, and those of its GPU or, on the CPU, of the machine.
        allocated: bytes of live tensors at most (GPU), or the process's resident memory at most (CPU).
        banks_to_fill: bytes that memory banks on the CPU will take as they fill, in `needs`.
        workers: bytes of the loader's processes, in `needs` on the CPU.
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
    allocated: int
    banks_to_fill: int
    workers: int


def memory_rows(measured: list[Measured], config: TrainConfig, device: torch.device) -> tuple[list[Row], list[str]]:
    """Memory of the fullest GPU or machine, and what is wrong with it."""
    if device.type == "cuda":
        worst = max(measured, key=lambda m: m.needs / m.has)
        needs, has, where = worst.needs, worst.has, f"GPU ({torch.cuda.get_device_name(device)})"
        text = f"{format_bytes(worst.allocated)} allocated, {format_bytes(needs)} reserved of {format_bytes(has)}"
    else:
        hosts: dict[str, list[Measured]] = {}
        for m in measured:
            hosts.setdefault(m.host, []).append(m)
        together = max(hosts.values(), key=lambda group: sum(m.needs for m in group) / group[0].has)
        needs, has, where = sum(m.needs for m in together), together[0].has, "machine"
        text = f"{format_bytes(needs)} of {format_bytes(has)}: {len(together)} process(es) of "
        text += f"{format_bytes(together[0].allocated)}, loaders {format_bytes(sum(m.workers for m in together))}"
        if together[0].banks_to_fill:
            text += f", banks yet to fill {format_bytes(sum(m.banks_to_fill for m in together))}"
    problems = []
    if needs > MEMORY_LIMIT * has:
        problems.append(
            f"{format_bytes(needs)} of memory are needed and the {where} has {format_bytes(has)}, of "
            f"which {MEMORY_LIMIT:.0%} can be counted on. {remedies(config)}"
        )
    return [(f"memory of the {where}", text)], problems


def time_rows(measured: list[Measured], validation_images: int, config: TrainConfig, start_iteration: int) -> list[Row]:
    """Seconds of a step by part, of the validation and of the run; the slowest process counts."""
    wait, compute, first, read = (max(getattr(m, name) for m in measured) for name in "wait compute first read".split())
    images = config.optim.batch_size // len(measured)
    step = wait + compute
    rows = [
        ("first step", f"{first:.3f} s"),
        ("step", f"{step:.3f} s: data {wait:.3f}, forward, backward and update {compute:.3f}"),
    ]
    reading = read * images / config.data.workers if config.data.workers else 0.0
    workers = config.data.workers
    rows.append(("reading a sample", f"{read * 1e3:.1f} ms on one core; {images} a step, {workers} loader(s)"))
    if reading > step:
        rows.append(("step, waiting for data", f"{reading:.3f} s: the loaders are slower than the network"))
        step = reading
    remaining = max(0, config.optim.max_iterations - start_iteration)
    iterations = remaining
    if config.optim.max_seconds is not None:
        iterations = min(remaining, int(config.optim.max_seconds / step))
        rows.append(("iterations", f"{iterations} of {remaining} fit into --max-seconds {config.optim.max_seconds:g}"))
    total = iterations * step
    rows.append(("training", f"{iterations} iterations, {format_duration(total)}"))
    if not config.run.skip_val:
        predict, decode = (max(getattr(m, name) for m in measured) for name in ("validate", "validate_read"))
        image = max(predict, decode / config.data.workers) if config.data.workers else predict + decode
        once = image * -(-validation_images // len(measured))
        times = _times(start_iteration, start_iteration + iterations, config.run.val_per_iters)
        rows.append(
            (
                "validation",
                f"{times} times {format_duration(once)}: {validation_images} images, {image * 1e3:.0f} ms each",
            )
        )
        total += times * once
    rows.append(("in total", f"{format_duration(total)}, saving apart"))
    return rows


def _times(start: int, end: int, interval: int) -> int:
    """How often something is done at multiples of the interval in (start, end] and at the end."""
    return end // interval - start // interval + (end > start and end % interval != 0)


def disk_rows(sizes: dict[str, int], config: TrainConfig, run: Run) -> tuple[list[Row], list[str]]:
    """Space that the run's files take, beside what is free, and what is wrong with it.

    Args:
        sizes: bytes of the "state" and of a "checkpoint".
        config, run: say what is written and where.
    """
    checkpoints = sizes["checkpoint"] * (1 if config.run.skip_val else CHECKPOINTS)
    needs = STATES * sizes["state"] + checkpoints
    kept = needs - sizes["state"]  # when none is being written
    existing = next(folder for folder in (run.folder, *run.folder.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    own = (run.last_state, previous_of(run.last_state), run.checkpoint, run.best_checkpoint)
    available = free + sum(path.stat().st_size for path in own if path.exists())  # what the run will replace
    text = (
        f"state {format_bytes(sizes['state'])}, checkpoint {format_bytes(sizes['checkpoint'])}; {format_bytes(kept)} "
        f"in total, {format_bytes(needs)} while saving, of {format_bytes(available)} free"
    )
    problems = []
    if needs > available:
        problems.append(
            f"the disk is too small: saving takes {format_bytes(needs)} and {existing} has {format_bytes(available)}. "
            "Choose another --save-dir, or smaller memory banks."
        )
    return [("disk", text)], problems


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
