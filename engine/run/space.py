"""Whether a run's disk holds what the run will write, told before hours are spent."""

import shutil
from typing import Any

from torch import Tensor
from torch.optim import SGD, Optimizer

from engine.run.directory import Run
from engine.run.state import TrainState
from utils.files import previous_of

STATES = 3  # the last one, the one before it, and the one that is being written
CHECKPOINTS = 2  # last and best
MIB = 2**20


def space_warning(training: TrainState, run: Run) -> str | None:
    """A warning where less is free than the run's files take at most; files that lie there already count as free.

    A warning only: quotas, and what else is written or removed meanwhile, are not known. The log is not counted.
    """
    needed = STATES * _state_bytes(training) + CHECKPOINTS * tensor_bytes(training.evaluated_network.state_dict())
    files = (run.last_state, previous_of(run.last_state), run.checkpoint, run.best_checkpoint)
    own = sum(file.stat().st_size for file in files if file.exists())
    free = shutil.disk_usage(run.folder).free
    if free + own >= needed:
        return None
    return (
        f"{free / MIB:,.0f} MiB are free in {run.folder}, and the run's states and checkpoints take up to "
        f"{(needed - own) / MIB:,.0f} MiB more: a save may fail."
    )


def _state_bytes(training: TrainState) -> int:
    optimizers = [training.optimizer, training.discriminator_optimizer]
    ema = {} if training.ema is None else training.ema.state_dict()
    of_optimizers = sum(map(_optimizer_bytes, filter(None, optimizers)))
    return tensor_bytes(training.task.trained_state()) + tensor_bytes(ema) + of_optimizers


def _optimizer_bytes(optimizer: Optimizer) -> int:
    """After the first step: SGD keeps one tensor a parameter, the Adam family two."""
    tensors = 1 if isinstance(optimizer, SGD) else 2
    return tensors * sum(tensor_bytes(group["params"]) for group in optimizer.param_groups)


def tensor_bytes(obj: Any) -> int:
    """Bytes of all tensors in nested dictionaries, lists and tuples."""
    if isinstance(obj, Tensor):
        return obj.numel() * obj.element_size()
    if isinstance(obj, dict):
        return sum(map(tensor_bytes, obj.values()))
    return sum(map(tensor_bytes, obj)) if isinstance(obj, (list, tuple)) else 0
