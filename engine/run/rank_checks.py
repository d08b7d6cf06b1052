"""Several processes start alike, or not at all: their code, arguments, data, weights and progress are compared."""

import hashlib
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.distributed import (
    all_gather_object,
    broadcast_object,
    get_world_size,
    is_main_process,
    setup_distributed,
)
from utils.flags import leaves
from utils.settings import flag_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dataset", "engine", "losses", "models", "utils")


def join_processes(config: Any, device: str, timeout: float) -> torch.device:
    """Joins the other processes, if any, and checks that they run the same code with the same settings.

    Args:
        config: the program's; settings that machines may have values of their own for are not compared.
        device: "auto", "cpu" or "cuda".
        timeout: seconds that a process waits for another.

    Returns:
        The device of this process.

    Raises:
        ValueError: on all processes alike, naming what differs; or the device or environment cannot be used.
        LostProcesses: the others did not come.
    """
    chosen = setup_distributed(device, timeout)
    if get_world_size() > 1:
        values = {
            flag_of(leaf.name, leaf.declaration): leaf.value
            for leaf in leaves(config)
            if not leaf.declaration.get("per_host")
        }
        values |= {"torch": torch.__version__, "Python": platform.python_version(), "the code's hash": _code_hash()}
        require_equal_across_ranks(values, "Start every process from one copy of the project with one command line.")
    return chosen


def on_main_process(function: Callable[[], Any]) -> Any:
    """What `function` returns on the main process, on all; a ValueError or OSError that it raises is raised on all."""
    outcome = None
    if is_main_process():
        try:
            outcome = function()
        except (ValueError, OSError) as error:
            outcome = error
    outcome = broadcast_object(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def require_equal_across_ranks(values: Mapping[str, Any], remedy: str) -> None:
    """Compares values, by their text, across processes; every process has to call it.

    Raises:
        ValueError: on all processes alike, naming what differs and where.
    """
    everyone = all_gather_object({name: str(value) for name, value in values.items()})
    differences = []
    for name in dict.fromkeys(name for theirs in everyone for name in theirs):
        ranks = defaultdict(list)
        for rank, theirs in enumerate(everyone):
            ranks[theirs.get(name, "not there")].append(rank)
        if len(ranks) > 1:
            differences.append(f"{name} is " + " and ".join(f"{text} on {_name(r)}" for text, r in ranks.items()))
    if differences:
        raise ValueError(f"the processes of this run do not agree: {'; '.join(differences)}. {remedy}")


def fingerprint(modules: Iterable[nn.Module]) -> str:
    """A hash of the parameters and buffers of modules, which does not depend on the device."""
    total, place = 0, 0
    for module in modules:
        for tensor in module.state_dict().values():
            place += 1
            total += place * _sum_of_bits(tensor)
    return f"{total & (1 << 64) - 1:016x}"


def _sum_of_bits(tensor: Tensor) -> int:
    """Sum of the elements' bits as integers, which does not depend on the order of summing."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(whole).sum(dtype=torch.int64))


def _name(ranks: list[int]) -> str:
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
