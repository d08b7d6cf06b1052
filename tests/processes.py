"""Run a function in several gloo processes and hand back what each returned."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def run_processes(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120, dist_timeout: float = 60
) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes that share a process group.

    Args:
        function: importable by name (spawned processes import its module); its result must suit torch.save.
        world_size: number of processes.
        args: picklable arguments.
        timeout: seconds until the processes are ended and the call fails.
        dist_timeout: seconds that a process waits for the others in a collective.

    Returns:
        the results in the order of ranks.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(
            _work, (function, world_size, port, folder, args, dist_timeout), nprocs=world_size, join=False
        )
        try:
            deadline = time.monotonic() + timeout
            while not context.join(timeout=max(deadline - time.monotonic(), 0)):  # returns as soon as one has ended
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{function.__name__} did not end within {timeout} s")
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _work(
    rank: int,
    function: Callable[..., Any],
    world_size: int,
    port: int,
    folder: str,
    args: tuple,
    dist_timeout: float,
) -> None:
    from utils.distributed import cleanup_distributed, setup_distributed

    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
    )
    torch.set_num_threads(1)
    setup_distributed("cpu", dist_timeout)
    try:
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
    finally:
        cleanup_distributed()
