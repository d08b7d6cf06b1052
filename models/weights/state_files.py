"""Read a network's weights from every supported kind of file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from models.classes import CLASSES_KEY, Classes
from utils.checkpoint import load_file

# Where a file keeps the network's state, in the order of the search: our last_state.pth first.
STATE_KEYS = ("network", "state_dict", "model")
# What DistributedDataParallel, averaging and torch.compile put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
AVERAGE_COUNTER = "n_averaged"  # torch's AveragedModel has it among the weights

State = dict[str, Tensor]


@dataclass(frozen=True)
class StateFile:
    """A file's content.

    Attributes:
        path: the file.
        state: names with tensors, on the CPU.
        averaged: whether `state` are a run's averaged weights; its plain ones are ignored.
        arguments: of the run that wrote the file, by argument name; None if it has none.
    """

    path: str
    state: State
    averaged: bool = False
    arguments: dict[str, Any] | None = None

    @property
    def classes(self) -> Classes | None:
        """Names and colours of the network's classes; None if the file has none; ValueError if they are damaged."""
        try:
            return Classes.from_tensor(self.state[CLASSES_KEY]) if CLASSES_KEY in self.state else None
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


def read_file(path: str | Path | StateFile) -> StateFile:
    """Read a file's weights under plain names, on the CPU; a `StateFile` is returned unchanged.

    Of a last_state.pth with averaged weights, which the run evaluates and saves, these are read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, contains code, or has no weights.
    """
    if isinstance(path, StateFile):
        return path
    content = load_file(path)
    arguments, averaged = _arguments(content), False
    if isinstance(content, dict):
        if isinstance(content.get("network"), dict) and isinstance(content.get("ema"), dict):
            averaged = True
            content = {name: value for name, value in content["ema"].items() if name != AVERAGE_COUNTER}
        else:
            key = next((key for key in STATE_KEYS if isinstance(content.get(key), dict)), None)
            content = content if key is None else content[key]
    _check_state(path, content)
    while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    return StateFile(str(path), dict(content), averaged, arguments)


def read_state(path: str | Path | StateFile) -> State:
    """Read a file's weights; errors as `read_file`."""
    return read_file(path).state


def read_arguments(path: str | Path | StateFile) -> dict[str, Any] | None:
    """Return the arguments of the run that wrote a last_state.pth, by argument name ("model", "backbone", ...).

    To read a large file only once, pass the result of `read_file` here and to `load_weights` or `describe_file`.

    Returns:
        Built-in types only; paths are strings. None for files with weights only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read or contains code.
    """
    return path.arguments if isinstance(path, StateFile) else _arguments(load_file(path))


def _arguments(content: object) -> dict[str, Any] | None:
    if not isinstance(content, dict) or not isinstance(content.get("network"), dict):
        return None
    arguments = content.get("arguments")
    return arguments if isinstance(arguments, dict) else None


def _check_state(path: str | Path, content: object) -> None:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no weights: expected names with tensors, got {_kind(content)}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds no weights: expected names with tensors, got {_kind(value)} at {name!r}; known are "
                f"plain state_dicts and dicts that hold one under {', '.join(map(repr, STATE_KEYS))}"
            )


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"an object of type {type(value).__name__}"
