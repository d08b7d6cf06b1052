"""The weights of the classes in a run's cross entropy."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dataset.class_weights import balanced, median_frequency, read_class_weights
from dataset.survey import some_of
from engine.run.directory import RunDirectory
from engine.run.rank_checks import on_main_process
from engine.setup.data import Data
from losses.task import COUNTED_WEIGHTS, TaskLossConfig

RULES = dict(zip(COUNTED_WEIGHTS, (balanced, median_frequency), strict=True))


def build_class_weights(
    config: TaskLossConfig, data: Data, run: RunDirectory, log: Callable[[str], None]
) -> Tensor | None:
    """The weights of the classes, float64 (K,), or None where all count alike.

    A run that is continued has those of its state. With --estimate they are 1 where the pixels are not known.

    Args:
        config: of the run's loss.
        data: of the run; holds the counts of its classes if the weights follow from them.
        run: that it trains in.
        log: gets the range of the weights, and a warning of classes with a weight of 0.

    Raises:
        ValueError, FileNotFoundError: a file that cannot be used, or that has other weights than the run began with.
    """
    if config.class_weights is None:
        return None
    classes = data.train.classes
    saved = None if run.state is None else run.state["task_loss"]["class_weights"].tolist()
    if config.class_weights not in RULES:
        weights = on_main_process(lambda: read_class_weights(Path(config.class_weights).expanduser(), classes))
        if saved is not None and saved != weights:
            raise ValueError(
                f"--class-weights {config.class_weights}: --resume needs the weights that the run was started with, "
                f"which are {' '.join(f'{weight:g}' for weight in saved)}"
            )
    elif saved is not None:
        weights = saved
    elif data.counts is None:
        weights = [1.0] * len(classes)
    else:
        weights = RULES[config.class_weights](data.counts)
    if zero := [name for name, weight in zip(classes, weights, strict=True) if not weight]:
        why = ", without a pixel in the training split" if config.class_weights in RULES else ""
        log(f"WARNING: --class-weights {config.class_weights}: weight 0 for {len(zero)} classes{why}: {some_of(zero)}")
    least, most = (choose((w, name) for name, w in zip(classes, weights, strict=True) if w) for choose in (min, max))
    log(f"class weights: {least[0]:.3g} ({least[1]}) to {most[0]:.3g} ({most[1]})")
    return torch.tensor(weights, dtype=torch.float64)
