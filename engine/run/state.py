"""The full state of a training run: all that a resume needs, as plain data, and no times but a time budget's."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.run.resume import STATE_FORMAT
from utils.distributed import all_gather_object, get_rank, get_world_size
from utils.meters import LossMeter

POLY_POWER = 0.9  # of the learning rate's schedule
# Options of torch's optimisers that change how a step is computed and not what.
IMPLEMENTATION = ("fused", "foreach")


@dataclass
class Best:
    """The best validation so far."""

    miou: float = -1.0
    iteration: int = 0


@dataclass
class TrainState:
    """The moving parts of a run.

    Attributes:
        task: holds the network and, in distillation, the distiller with its banks.
        optimizer, scaler: as in torch.
        ema: the network with averaged weights, or None.
        discriminator_optimizer: of the task's separate parameters, or None where it has none.
        meter: losses since they were last logged.
        best: the best validation so far.
        iteration: optimiser steps done.
        seconds: of training, in the state that was loaded; while training runs, the loop's `TimeBudget` counts on.
        data: what identifies the training data.
        validation_due: whether a signal broke the validation after this iteration off.
    """

    task: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: nn.Module | None = None
    discriminator_optimizer: torch.optim.Optimizer | None = None
    meter: LossMeter = field(default_factory=LossMeter)
    best: Best = field(default_factory=Best)
    iteration: int = 0
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)
    validation_due: bool = False

    @property
    def evaluated_network(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.task.network if self.ema is None else self.ema.module

    def state(self, arguments: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """Everything as plain data. Called by all processes together, since each has generators of its own.

        Args:
            arguments: the run's arguments as built-in types.
            device: where the run trains.
        """
        names, cuda = ("lr", "max_iterations", "warmup_iters"), device.type == "cuda"
        return {
            "format": STATE_FORMAT,
            "iteration": self.iteration,
            # without a budget it is in the log alone, so that equal runs leave equal states
            "train_seconds": None if arguments.get("max_seconds") is None else self.seconds,
            **self.task.trained_state(),
            "optimizer": self.optimizer.state_dict(),
            "separate_optimizer": None
            if self.discriminator_optimizer is None
            else self.discriminator_optimizer.state_dict(),
            "schedule": {"kind": "poly", "power": POLY_POWER} | {name: arguments[name] for name in names},
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "best": asdict(self.best),
            # one entry a process
            "generators": all_gather_object(
                {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if cuda else None}
            ),
            "meters": all_gather_object(self.meter.state_dict()),
            "validation_due": self.validation_due,
            "arguments": arguments,
            "data": self.data,
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Continues from a saved state.

        Random generators and the losses since the last log continue where they stood when as many processes run as
        when it was saved; otherwise each process keeps the generator it was seeded with (only dropout draws from it).

        Raises:
            ValueError: the state belongs to another network or distiller.
        """
        try:
            self.task.load_trained_state(state)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"--resume: the state does not fit this network and its losses: {error}") from error
        load_optimizer_state(self.optimizer, state["optimizer"])
        self._load_discriminator_optimizer(state.get("separate_optimizer"))  # not in states from before there was one
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.best = Best(**state["best"])
        self.iteration = state["iteration"]
        self.validation_due = state.get("validation_due", False)
        self.seconds = state.get("train_seconds") or 0.0
        if len(state["generators"]) == get_world_size():
            saved = state["generators"][get_rank()]
            torch.set_rng_state(saved["cpu"])
            if device.type == "cuda" and saved["cuda"] is not None:
                torch.cuda.set_rng_state(saved["cuda"], device)
            self.meter.load_state_dict(state["meters"][get_rank()], device)

    def _load_discriminator_optimizer(self, saved: dict[str, Any] | None) -> None:
        if (saved is None) != (self.discriminator_optimizer is None):
            raise ValueError(
                "--resume: the state does not fit these losses: expected one "
                f"{'without' if self.discriminator_optimizer is None else 'with'} a discriminator's optimiser, got one "
                f"{'without' if saved is None else 'with'} it"
            )
        if saved is not None:
            load_optimizer_state(self.discriminator_optimizer, saved)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict`, whatever implementation and memory format the state was saved from.

    Args:
        optimizer: keeps the implementation it was built with.
        state: of an optimiser of the same kind and parameters, fused or not, its parameters channels_last or not.
    """
    groups = [
        saved | {name: own[name] for name in IMPLEMENTATION if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False)  # torch compares the counts
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused kernels go through memory and not through indices: equal strides are on us.
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
