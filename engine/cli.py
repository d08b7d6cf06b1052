"""How an entry point ends: errors of the user's as one message, everything else with its traceback."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from engine.interrupt import Interrupted, end_at_once
from utils.distributed import LostProcesses, cleanup_distributed, lost_processes_explained, note_failure

USER_ERRORS = (ValueError, OSError, FloatingPointError)
EXIT_USER_ERROR = 2
EXIT_LOST_PROCESSES = 3
EXIT_INTERRUPTED = 130
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: try again later


def run_cli(main: Callable[[], None], resumable: bool = False) -> None:
    """Runs `main`; exits 2 after one clear message for a user's error, 130 after Ctrl-C.

    A resumable `main` is a training run's: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end it with 75, after the step and the
    save that are due. 130 is then left to a second, impatient Ctrl-C.

    Where several processes run, those that are left when one of them has ended exit 3 with its reason.
    CIRKD_TRACEBACK=1 in the environment shows where such an error came from.
    """
    # Gradients of a sharp softmax are full of numbers below 1e-38, which a CPU multiplies many times slower than 0.
    # Threads take the setting from the one that starts them, so this comes before all work.
    torch.set_flush_denormal(True)
    if resumable:
        end_at_once()
    try:
        with _failure_noted(), lost_processes_explained(lambda: "outside training"):
            main()
    except Interrupted as interrupted:
        if os.environ.get("RANK", "0") == "0":
            print(f"interrupted: {interrupted}", file=sys.stderr, flush=True)
        _exit(EXIT_RESUMABLE)
    except LostProcesses as error:
        if os.environ.get("CIRKD_TRACEBACK"):
            raise
        print(
            f"error (process {os.environ.get('RANK', 0)}): {error}. What a training run has saved is kept: "
            "--resume auto continues from it.",
            file=sys.stderr,
            flush=True,
        )
        _exit(EXIT_LOST_PROCESSES)
    except USER_ERRORS as error:
        if os.environ.get("CIRKD_TRACEBACK"):
            raise
        rank = os.environ.get("RANK")
        where = f" (process {rank})" if rank not in (None, "0") else ""
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
        _exit(EXIT_USER_ERROR)
    except torch.OutOfMemoryError as error:
        print(
            f"error: the GPU's memory is full: {error}\nA smaller --batch-size, more --accumulation-steps or --amp "
            "bf16 need less; an evaluation, --slide-crop and a smaller --window-batch.",
            file=sys.stderr,
            flush=True,
        )
        _exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted; what a training run has saved, --resume auto continues.", file=sys.stderr, flush=True)
        _exit(EXIT_INTERRUPTED)
    finally:
        cleanup_distributed()


@contextmanager
def _failure_noted() -> Iterator[None]:
    """Leaves the reason why this process ends for those that go on without it."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, LostProcesses) and getattr(error, "code", 1):  # sys.exit(0) is no failure
            note_failure(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.exit(code)
