"""What a training run tells of its progress at a log interval."""

from typing import Any

import torch
from tqdm import tqdm

from engine.run.state import TrainState
from engine.training.health import bank_filling
from utils.distributed import is_main_process
from utils.logger import RunLogger
from utils.meters import RateMeter, format_duration


def progress_bar(iteration: int, max_iterations: int | None) -> tqdm:
    """A bar of iterations, on the main process where stderr is a terminal.

    Args:
        iteration: where it starts.
        max_iterations: where it ends, or None where that is not known.
    """
    hidden = None if is_main_process() else True
    return tqdm(total=max_iterations, initial=iteration, unit="it", disable=hidden, dynamic_ncols=True)


def log_progress(
    training: TrainState,
    rates: RateMeter,
    lr: float,
    max_iterations: int,
    max_seconds: float | None,
    device: torch.device,
    logger: RunLogger,
    bar: tqdm,
) -> None:
    """Reads the meters, which is a collective, and writes a line, a record, curves and the bar's end.

    Args:
        training: what trains.
        rates: its speed.
        lr: learning rate of the last step.
        max_iterations, max_seconds: where training ends.
        device: where it runs.
        logger: writes on the main process.
        bar: of the iterations.
    """
    losses = training.meter.read(across_processes=True)
    total = sum(losses.values())
    speed = rates.read()
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_rss_mib()
    of_all, remaining = f"/{max_iterations}", rates.eta(max_iterations - training.iteration)
    if max_seconds is not None:
        of_all = f" ({training.seconds:.0f} of {max_seconds:g} s)"
        remaining = format_duration(max_seconds - training.seconds)
    terms = "  ".join(f"{name.removeprefix('loss_')} {value:.4g}" for name, value in losses.items())
    logger.info(
        f"iteration {training.iteration}{of_all}  loss {total:.4f}  {terms}  lr {lr:.3g}  "
        f"{speed.get('images_per_second', 0):.1f} images/s  eta {remaining}"
    )
    record = {"iteration": training.iteration, "lr": lr, "loss": total, **losses} | speed
    record |= {"memory_mib": memory, "train_seconds": training.seconds} | _health(training, logger)
    logger.metrics(record)
    logger.scalars({"train/loss": total} | {f"train/{k}": v for k, v in losses.items()}, training.iteration)
    logger.scalars({"lr": lr} | {f"speed/{k}": v for k, v in speed.items()}, training.iteration)
    best = f"{training.best.miou:.2%}" if training.best.iteration else "-"
    bar.set_postfix_str(f"best mIoU {best}  loss {total:.3f}  {terms}")


def _health(training: TrainState, logger: RunLogger) -> dict[str, Any]:
    """What was measured of the losses' health since the last log, for the record; says what is wrong."""
    if not training.health:
        return {}
    health, training.health = training.health, {}
    for text in training.watch.warnings(health):
        logger.info(f"WARNING: {text}")
    banks = bank_filling(training.task)
    figures = {f"health/{name}/{kind}": value for name, row in health.items() for kind, value in row.items()}
    logger.scalars(figures | {f"banks/{name}": share for name, share in banks.items()}, training.iteration)
    return {"health": health, "banks": banks}


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
