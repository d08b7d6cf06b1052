"""Work on many files in several processes that end with the process that started them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

DEFAULT_WORKERS = min(8, os.cpu_count() or 1)
_WAITING_PER_WORKER = 3  # tasks queued ahead: enough to keep a worker busy, few enough to stop soon

_state: Any = None  # shared by a worker's tasks; set at its start, so that it is sent once and not with every task


def run_tasks(function: Callable[[Any, Any], Any], shared: Any, tasks: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yields `function(shared, task)` of every task, in the order of completion.

    An error of a task, and Ctrl-C, end all processes and are raised here. If this process is killed, the others end by
    themselves within a second.

    Args:
        function: importable by name.
        shared: first argument of every call; sent to each process once.
        tasks: second arguments.
        workers: processes; 0 works in this one.

    Raises:
        ValueError: fewer than 0 workers, or a process was killed.
    """
    if workers < 0:
        raise ValueError(f"workers {workers}: expected 0 (work in the main process) or more")
    if workers == 0:
        for task in tasks:
            yield function(shared, task)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start, initargs=(os.getpid(), shared))
    waiting: set[Future] = set()
    try:
        for task in tasks:
            waiting.add(pool.submit(_call, function, task))
            if len(waiting) >= workers * _WAITING_PER_WORKER:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process was killed, perhaps for lack of memory; run again with fewer --workers"
        ) from error
    except BaseException:  # also where the caller stops iterating (GeneratorExit) and at Ctrl-C
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        raise
    pool.shutdown()


def _start(parent: int, shared: Any) -> None:
    global _state
    _state = shared
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _call(function: Callable[[Any, Any], Any], task: Any) -> Any:
    return function(_state, task)
