"""Which state a run continues from, and its migration to the present format."""

from pathlib import Path
from typing import Any

from models.weights.file_names import STATE_NAME
from utils.checkpoint import load_file
from utils.files import previous_of
from utils.flags import differences, leaves, migrate_names
from utils.trust import CodeInFileError

STATE_FORMAT = 2  # 1: weights were recorded under their flags' names by train_cirkdv2.py
ASIDE_SUFFIX = ".set_aside"  # of a state that a run could not or should not continue from

Found = tuple[Path | None, Any, str | None]


def find_state(resume: str | None, last_state: Path) -> Found:
    """Reads the state to continue from; it is not looked into.

    Args:
        resume: None, "auto", or a file or the folder of one.
        last_state: where the run keeps its state. With "auto", one that is damaged or missing gives way to the one
            before it.

    Returns:
        (file, content, warning); None for each where there is none and none has to be.

    Raises:
        FileNotFoundError: --resume names no state.
        CodeInFileError: the file carries code; another one is not tried then.
        ValueError: no file can be read.
    """
    if resume is None:
        return None, None, None
    if resume == "auto":
        return _last_good_state(last_state)
    path = Path(resume).expanduser()
    path = path / STATE_NAME if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"--resume {resume}: there is no state file {path}. A run writes {STATE_NAME}.")
    try:
        return path, load_file(path), None
    except CodeInFileError:
        raise
    except ValueError as error:
        before = previous_of(path)
        hint = f". The state before it is still there: --resume {before}" if before.exists() else ""
        raise ValueError(f"{error}{hint}") from error


def _last_good_state(path: Path) -> Found:
    before = previous_of(path)
    if not path.exists():
        if not before.exists():
            return None, None, None
        problem = f"there is no {path}"
    else:
        try:
            return path, load_file(path), None
        except CodeInFileError:  # somebody put it there
            raise
        except ValueError as error:
            if not before.exists():
                raise
            problem = str(error)
    try:
        content = load_file(before)
    except ValueError as error:
        raise ValueError(f"--resume auto: {problem}; the state before it is no better: {error}") from error
    aside = f" The other one is put aside as {path.name}{ASIDE_SUFFIX}." if path.exists() else ""
    return before, content, f"{problem}. Continuing from the state before it, {before.name}.{aside}"


def check_state(path: Path, state: Any, settings: Any) -> dict[str, Any]:
    """The state in the present format.

    Args:
        path: its file, for messages.
        state: the file's content.
        settings: of the run that is to continue from it.

    Raises:
        ValueError: it is no state, of a later version, or was made with other settings.
    """
    if not isinstance(state, dict) or "iteration" not in state or "arguments" not in state:
        raise ValueError(
            f"--resume {path}: expected the full state that a run writes as {STATE_NAME}, got a file without it. "
            "Weights alone are given with --pretrained (or --student-pretrained)."
        )
    if state.get("format") not in range(1, STATE_FORMAT + 1):
        raise ValueError(
            f"--resume {path}: expected a state of format 1 to {STATE_FORMAT}, got {state.get('format')}. A later "
            "version of this project may have written it."
        )
    state = state | {"format": STATE_FORMAT, "arguments": migrate_names(state["arguments"])}
    found = differences(state["arguments"], settings)
    if found:
        raise ValueError(
            f"--resume {path}: the run was started with other settings: {'; '.join(found)}."
            f"{_other_program(state, settings)} Give the same ones, or start a new run from its weights (--pretrained, "
            "of a student --student-pretrained)."
        )
    return state


def _other_program(state: dict[str, Any], settings: Any) -> str:
    """A hint where another program wrote the state, or ""."""
    foreign = sorted(state["arguments"].keys() - {leaf.name for leaf in leaves(settings)})
    return f" Another program wrote it: this one has no {', '.join(foreign[:3])}." if foreign else ""
