"""Read a network's weights out of every kind of file that holds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.checkpoint import load_file

# Where a file keeps the network's state, in the order in which they are looked for: our last_state.pth first.
STATE_KEYS = ("network", "state_dict", "model")
# What DistributedDataParallel, torch.compile and averaging put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
AVERAGE_COUNTER = "n_averaged"  # torch's AveragedModel keeps it beside the weights

State = dict[str, Tensor]


@dataclass(frozen=True)
class StateFile:
    """A file's weights and what else it tells.

    Attributes:
        path: the file.
        state: names with tensors, on the CPU.
        averaged: `state` are the averaged weights of a run that keeps such; its plain ones are left aside.
        arguments: what the run that wrote the file was started with, by argument name; None where it does not say.
    """

    path: str
    state: State
    averaged: bool = False
    arguments: dict[str, Any] | None = None


def read_file(path: str | Path | StateFile) -> StateFile:
    """Read a file's weights under plain names, on the CPU; what has been read already is given back as it is.

    A run that averages its weights evaluates and saves the averaged ones, so its last_state.pth gives these.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, holds code, or holds no weights.
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
    """Read a file's weights alone; as `read_file`."""
    return read_file(path).state


def read_arguments(path: str | Path | StateFile) -> dict[str, Any] | None:
    """Return the arguments of the run that wrote a last_state.pth, by argument name ("model", "backbone", ...).

    To read a large file once, call `read_file`, which has them as `arguments`, and hand its result to `load_weights`
    or `describe_file` in place of the path.

    Returns:
        Built-in types only; paths are strings. None for files that hold weights alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read or holds code.
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
                f"{path} holds no weights: expected names with tensors, got {_kind(value)} at {name!r}; known are bare "
                f"state_dicts and dicts that hold one under {', '.join(map(repr, STATE_KEYS))}"
            )


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"an object of type {type(value).__name__}"
