"""How the tools of this package end: a user's error as one message with exit code 2, all else with its traceback."""

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run_tool(main: Callable[[], None]) -> None:
    """Run `main`; CIRKD_TRACEBACK=1 in the environment shows where a user's error came from."""
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("CIRKD_TRACEBACK"):
            raise
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(EXIT_INTERRUPTED)
