"""Which state a run continues from."""

from pathlib import Path
from typing import Any

from models.weights.file_names import STATE_NAME
from utils.checkpoint import load_file
from utils.files import previous_of
from utils.trust import CodeInFileError

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
