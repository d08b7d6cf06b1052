"""How an entry point ends: errors of the user's as one message, everything else with its traceback."""

import os
import sys
from collections.abc import Callable

import torch

from utils.distributed import cleanup_distributed

USER_ERRORS = (ValueError, OSError, FloatingPointError)
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run_cli(main: Callable[[], None]) -> None:
    """Runs `main`; exits 2 after one clear message for a user's error, 130 after Ctrl-C.

    CIRKD_TRACEBACK=1 in the environment shows where such an error came from.
    """
    try:
        main()
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


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.exit(code)
