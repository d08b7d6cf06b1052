"""Programs of one module, run in this process."""

from collections.abc import Callable, Sequence

from utils.cli import run_cli


def exit_code(main: Callable[[list[str]], int | None], words: Sequence[str]) -> int:
    """How a program ends that is started with these words."""
    try:
        run_cli(lambda: main(list(words)))
    except SystemExit as end:
        return end.code
    return 0
