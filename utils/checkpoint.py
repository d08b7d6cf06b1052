"""Files of tensors: written atomically, read without ever running code in them."""

import dataclasses
import errno
import os
import warnings
from argparse import Namespace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.files import atomic_file
from utils.trust import COPY_AGAIN, check_container, load_safetensors, refusal


def save_atomic(obj: Any, path: str | os.PathLike, keep_previous: bool = False) -> None:
    """Writes `obj` with torch.save so that `path` holds either its old content or the whole new one, never a part.

    The file is forced to the disk before it takes its name, and carries checksums that `load_file` compares.

    Args:
        obj: what `load_file` can read back: tensors, numbers, strings, and containers of these (see `plain`).
        path: file to write, in a folder that exists; see `utils.files.atomic_file`.
        keep_previous: keep the old content as `previous_of(path)`.

    Raises:
        OSError: the file could not be written (its `errno` is that of the failed call, ENOSPC for a full disk); the
            previous file, if there was one, is untouched.
    """
    with atomic_file(path, keep_previous) as file:
        torch.save(obj, file)


def load_file(path: str | os.PathLike) -> Any:
    """Reads a `.pth` or `.safetensors` file onto the CPU; nothing in it can run code.

    The checksums of the file's members are compared before anything is read from it; those of `.safetensors` files
    where they have one.

    Args:
        path: a file written by torch.save, or one whose name ends in `.safetensors`.

    Returns:
        What was saved; for `.safetensors` a dict of tensors.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: `path` is a folder.
        CodeInFileError: it holds more than plain data.
        ValueError: it is empty, cut short, changed since it was written, or of another kind.
        OSError: the file cannot be read (permissions, disk).
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of weights, got the folder {path}{_neighbours(path)}")
    if not path.exists():
        where = path.parent
        hint = _neighbours(where) if where.is_dir() else f": its folder {where} does not exist either"
        raise FileNotFoundError(f"there is no file {path}{hint}; check the path, or download or train it first")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): {COPY_AGAIN}")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    check_container(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch's readers raise a dozen kinds for a bad file
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise OSError(errno.ENOMEM, "there is not enough memory to read it", str(path)) from error
        raise refusal(path, error) from error


def plain(obj: Any) -> Any:
    """Turns `obj` into what `load_file` reads back: built-in scalars, strings, tensors, dicts, lists and tuples.

    Paths, devices and dtypes become strings, NumPy scalars and enums their values, arrays nested lists, namespaces and
    dataclasses dicts, sets sorted lists; tuples stay tuples, tensors stay the same tensors.

    Raises:
        ValueError: something in `obj` has no such form; its place is named.
    """
    return _plain(obj, "")


def _plain(obj: Any, place: str) -> Any:
    if obj is None or isinstance(obj, Tensor):
        return obj
    if isinstance(obj, (np.generic, np.ndarray)):  # before float: np.float64 is one
        return obj.tolist()
    if isinstance(obj, Enum):
        return _plain(obj.value, place)
    for kind in (bool, int, float, complex, str, bytes):  # subclasses become the built-in itself
        if isinstance(obj, kind):
            return kind(obj)
    if isinstance(obj, (os.PathLike, torch.device, torch.dtype)):
        return str(obj)
    if isinstance(obj, (Namespace, SimpleNamespace)):
        obj = vars(obj)
    elif dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        obj = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
    if isinstance(obj, dict):
        return {_plain(key, f"{place}[key]"): _plain(value, f"{place}[{key!r}]") for key, value in obj.items()}
    if isinstance(obj, (set, frozenset)):
        obj = sorted(obj)
    if isinstance(obj, (list, tuple)):
        items = [_plain(value, f"{place}[{index}]") for index, value in enumerate(obj)]
        return tuple(items) if isinstance(obj, tuple) else items
    raise ValueError(
        f"cannot store {place or 'the object'} of type {type(obj).__name__}: expected numbers, strings, tensors, paths "
        "and containers of these"
    )


def _neighbours(folder: Path) -> str:
    """A hint that names the files of weights in `folder`."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in {".pth", ".pt", ".safetensors"})
    except OSError:
        return ""
    if not names:
        runs = sorted({path.parent.name for path in folder.glob("*/*.pth")})
        found = f"; there are the run folders {', '.join(runs[:5])}" if runs else ""
        return f" ({folder} has no .pth or .safetensors file{found})"
    return f" ({folder} holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''})"
