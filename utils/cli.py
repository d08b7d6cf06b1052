"""Start and end of a program: its command line; a user's error as one message, other errors with a traceback."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from utils import flags
from utils.distributed import LostProcesses, cleanup_distributed, lost_processes_explained, note_failure
from utils.names import did_you_mean
from utils.signals import Interrupted, end_at_once

USER_ERRORS = (ValueError, OSError, FloatingPointError)
EXIT_USER_ERROR = 2
EXIT_LOST_PROCESSES = 3
EXIT_INTERRUPTED = 130
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: try again later
# Requests to one start of a run, which are not repeated when its settings are read from a file.
REQUESTS = ("resume", "overwrite", "estimate", "profile")
# flag or value of other trainers -> the one here
RELATED = {
    "gpu": "cuda",
    "--epochs": "--max-iterations",
    "--num-epochs": "--max-iterations",
    "--max-epochs": "--max-iterations",
}


class UsageError(ValueError):
    """A command line that cannot be read."""


class Parser(argparse.ArgumentParser):
    """ArgumentParser that takes `--save_dir` for `--save-dir` and raises `UsageError`, with the nearest flag.

    Args:
        description: for `--help`.
        legacy: flags that are accepted and have no effect -> (whether they take a value, what replaces them).
    """

    def __init__(
        self, description: str, legacy: Mapping[str, tuple[bool, str]] | None = None, prog: str | None = None
    ) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        self._legacy = legacy or {}
        for flag, (takes_value, _) in self._legacy.items():
            options = {"nargs": "*"} if takes_value else {"action": "store_const", "const": ""}
            self.add_argument(flag, dest=_legacy_name(flag), default=None, help=argparse.SUPPRESS, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse's; names on stderr the legacy flags that were given and what replaces them."""
        words = [_hyphenate(word) for word in (sys.argv[1:] if args is None else args)]
        self._given = {word.partition("=")[0] for word in words}
        parsed = super().parse_args(words, namespace)
        for flag, (_, instead) in self._legacy.items():
            if getattr(parsed, _legacy_name(flag)) is not None:
                print(f"{self.prog}: {flag} has no effect: {instead}.", file=sys.stderr)
            delattr(parsed, _legacy_name(flag))
        return parsed

    def error(self, message: str):
        """Raises UsageError."""
        flags = self._option_string_actions
        hints = {flag: did_you_mean(flag, flags, RELATED) for flag in self._given - {*flags} if flag.startswith("--")}
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            hints[choice[1]] = did_you_mean(choice[1], choice[2].replace("'", "").split(", "), RELATED)
        for word, hint in sorted(hints.items()):
            message = f"{message.rstrip('.?')}. {word}:{hint.lower()}" if hint else message
        program = self.prog if self.prog.startswith("python ") else f"python {self.prog}"
        raise UsageError(f"{message}\nSee `{program} --help` for all options.")


def parse_config(
    config: type,
    description: str,
    words: Sequence[str] | None = None,
    *,
    legacy: Mapping[str, tuple[bool, str]] | None = None,
    prog: str | None = None,
    migrate: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Any:
    """The config of a command line: of its flags, which win over the file that `--config` names.

    Args:
        config: class whose fields are sections; see `utils.flags`.
        description: for `--help`.
        words: of the command line; None: this process's.
        legacy, prog: as for `Parser`.
        migrate: settings of a file of an earlier version -> of this one.

    Raises:
        UsageError, ValueError: what is wrong with it.
    """
    parser = Parser(description, legacy, prog)
    parser.add_argument(
        "--config", type=Path, metavar="RUN.yaml", help="take settings from a run's args.yaml; flags win over it"
    )
    flags.add_flags(parser, config)
    given = vars(parser.parse_args(words))
    path = given.pop("config")
    from_file = {} if path is None else read_settings(path, flags.names(config), migrate)
    decided = flags.overridden(config, given)
    return flags.read(config, {name: value for name, value in from_file.items() if name not in decided} | given)


def read_settings(
    path: Path, known: set[str], migrate: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> dict[str, Any]:
    """The settings in a YAML file: a mapping of names to values, or an args.yaml with such a mapping in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such mapping, or it names what is no setting.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config {path}: there is no such file; expected the args.yaml of a run.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: expected YAML, got {error}") from error
    origin = ""
    if isinstance(values, dict) and isinstance(values.get("arguments"), dict):
        words = [Path(str(word)).name for word in values.get("command", ())[:2]]  # python train_kd.py
        origin = f" The file was written by {' '.join(words) or 'another program'}."
        values = {name: value for name, value in values["arguments"].items() if name not in REQUESTS}
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: expected `name: value` lines, got {type(values).__name__}.")
    values = migrate({str(name).lstrip("-").replace("-", "_"): value for name, value in values.items()})
    unknown = sorted(set(values) - known)
    if unknown:
        hint = origin or did_you_mean(unknown[0], known)
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ValueError(f"--config {path}: {shown}: not a setting of this program.{hint}")
    return values


def run_cli(main: Callable[[], int | None], resumable: bool = False, interrupted: str = "") -> None:
    """Runs `main`; exits 2 after one clear message for a user's error, 130 after Ctrl-C, else with what it returns.

    `interrupted` is the advice after Ctrl-C.

    A resumable `main` is a training run's: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end it with 75, after the step and the
    save that are due. Only a second Ctrl-C ends it with 130.

    Where several processes run, those that are left when one of them has ended exit 3 with its reason.
    CIRKD_TRACEBACK=1 in the environment shows where such an error came from.
    """
    # Gradients of a sharp softmax are full of numbers below 1e-38, which a CPU multiplies many times slower than 0.
    # Threads take the setting from the one that starts them, so this comes before all work.
    torch.set_flush_denormal(True)
    rank = os.environ.get("RANK", "0")
    if resumable:
        end_at_once()
    try:
        with _failure_noted(), lost_processes_explained(lambda: "outside training"):
            code = main()
        if code:
            _exit(code)
    except Interrupted as reason:
        _exit(EXIT_RESUMABLE, f"interrupted: {reason}" if rank == "0" else "")
    except (LostProcesses, *USER_ERRORS) as error:
        if os.environ.get("CIRKD_TRACEBACK"):
            raise
        if isinstance(error, LostProcesses):
            kept = "What a training run has saved is kept: --resume auto continues from it."
            _exit(EXIT_LOST_PROCESSES, f"error (process {rank}): {error}. {kept}")
        where = "" if rank == "0" else f" (process {rank})"
        _exit(EXIT_USER_ERROR, f"error{where}: {error}")
    except torch.OutOfMemoryError as error:
        if os.environ.get("CIRKD_TRACEBACK"):
            raise
        advice = (
            "A smaller --batch-size, more --accumulation-steps or --amp bf16 need less; an evaluation, --slide-crop "
            "and a smaller --window-batch; a prediction, a smaller --max-pixels."
        )
        _exit(EXIT_USER_ERROR, f"error: the GPU's memory is full: {error}\n{advice}")
    except KeyboardInterrupt:
        hint = "what a training run has saved, --resume auto continues." if resumable else interrupted
        _exit(EXIT_INTERRUPTED, f"interrupted{'; ' if hint else ''}{hint}")
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


def _exit(code: int, message: str = "") -> None:
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.exit(code)


def _hyphenate(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if word.startswith("--") else word


def _legacy_name(flag: str) -> str:
    return "legacy_" + flag.strip("-").replace("-", "_")
