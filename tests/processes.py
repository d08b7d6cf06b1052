"""Run a function in several gloo processes and return what each returned."""

import contextlib
import importlib
import io
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

# Processes are forked from a server that has imported these: a start takes 0.1 s, not the seconds of an import.
multiprocessing.set_forkserver_preload(["train_baseline", "train_cirkdv2", "train_kd", "eval", "predict"])


def run_processes(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120, dist_timeout: float = 60
) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes that share a process group.

    Args:
        function: importable by name (the processes import its module); its result must suit torch.save.
        world_size: number of processes.
        args: picklable arguments.
        timeout: seconds until the processes are ended and the call fails.
        dist_timeout: seconds that a process waits for the others in a collective.

    Returns:
        the results in the order of ranks.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        given = (function, world_size, port, folder, args, dist_timeout)
        context = mp.start_processes(_work, given, world_size, join=False, start_method="forkserver")
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


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


def start_python(words: list[Any], processes: int = 1, **variables: str) -> list[subprocess.Popen]:
    """Starts `python WORDS` as the processes of one run, each in a session that can be killed with its workers."""
    shared = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    if processes > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        shared |= {"LOCAL_WORLD_SIZE": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=Path(__file__).parents[1], start_new_session=True, text=True,
            env=shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]  # fmt: skip


def run_mains(*runs: tuple[str, list[Any]]) -> None:
    """Calls the `main` of entry points, (module, command line), one after the other; for `run_processes`."""
    for module, words in runs:
        sys.argv = [f"{module}.py", *map(str, words)]
        with torch.random.fork_rng(devices=[]):
            importlib.import_module(module).main()


def run_program(module: str, words: list[Any]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an entry point, as its command line ends; for `run_processes`."""
    from utils.cli import run_cli

    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            run_cli(lambda: run_mains((module, words)))
        except SystemExit as end:
            code = end.code
    return code, output.getvalue(), errors.getvalue()


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
