"""How every program begins once its command line is read."""

from typing import Any

import torch

from engine.config.schema import MachineConfig
from engine.run.rank_checks import join_processes
from utils.seed import seed_everything, set_deterministic


def start(config: Any, machine: MachineConfig) -> torch.device:
    """Joins the other processes of the run, if any, and seeds the random generators; see `join_processes`."""
    device = join_processes(config, machine)
    set_deterministic(machine.deterministic)
    seed_everything(machine.seed)
    return device
