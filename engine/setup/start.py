"""How programs begin once their command line is read."""

from typing import Any

import torch

from engine.config.schema import MachineConfig, TrainConfig
from engine.run.directory import RunDirectory
from engine.run.rank_checks import join_processes
from utils.seed import seed_everything, set_deterministic


def start(config: Any, machine: MachineConfig) -> torch.device:
    """Joins the other processes of the run, if any, and seeds the random generators; see `join_processes`."""
    set_deterministic(machine.deterministic)  # first: NCCL reads it when the group is made
    device = join_processes(config, machine.device, machine.dist_timeout)
    seed_everything(machine.seed)
    return device


def open_run(config: TrainConfig, stem: str) -> RunDirectory:
    """The folder of a training run, named `stem` unless --save-dir-name is given.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, FolderInUseError: see `RunDirectory.open`.
    """
    options = config.run
    return RunDirectory.open(
        options.save_dir / (options.save_dir_name or stem),
        stem,
        config,
        resume=options.resume,
        overwrite=options.overwrite,
        read_only=options.estimate,
    )
