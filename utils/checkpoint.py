"""Files of tensors: written whole or not at all, read without ever running code that lies in them."""

import dataclasses
import itertools
import os
import pickle
import re
import shutil
import socket
import zipfile
from argparse import Namespace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

_counter = itertools.count()


class _Recorder:
    """A binary file that remembers the first OSError of a write: torch.save hides it behind a RuntimeError."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error
            raise


def save_atomic(obj: Any, path: str | os.PathLike) -> None:
    """Writes `obj` with torch.save so that `path` holds either its old content or the whole new one, never a part.

    The bytes go to a temporary file in the same folder, are forced to the disk, and only then take the name `path`.
    A symbolic link is followed. Temporary files that a killed process left for the same `path` are removed. The folder
    has to exist: creating it here would hide a mount that has vanished.

    Args:
        obj: what `load_file` can read back: tensors, numbers, strings, and containers of these (see `plain`).
        path: file to write.

    Raises:
        OSError: the file could not be written (its `errno` is that of the failed call, ENOSPC for a full disk); the
            previous file, if there was one, is untouched.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{next(_counter)}.tmp")
    recorder = None
    try:
        _remove_stale(path)
        with open(temporary, "xb") as file:
            recorder = _Recorder(file)
            torch.save(obj, recorder)
            recorder.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = recorder.error if recorder and recorder.error else error
        if isinstance(cause, OSError):
            raise _explained(cause, path) from error
        raise


def load_file(path: str | os.PathLike) -> Any:
    """Reads a `.pth` or `.safetensors` file onto the CPU; nothing in it can run code.

    The checksums of the file's members are compared before anything is read from it.

    Args:
        path: a file written by torch.save, or one whose name ends in `.safetensors`.

    Returns:
        What was saved; for `.safetensors` a dict of tensors.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: `path` is a folder.
        ValueError: the file is empty, cut short, damaged, of another kind, or holds more than plain data.
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
        raise ValueError(f"{path} is empty (0 bytes): copy or download it again")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:
        _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch's readers raise a dozen kinds for a bad file
        raise ValueError(_refusal(path, error)) from error


def plain(obj: Any) -> Any:
    """Turns `obj` into what `load_file` reads back: built-in scalars, strings, tensors, dicts, lists and tuples.

    Paths, devices and dtypes become strings, NumPy scalars and enums their values, arrays nested lists, namespaces and
    dataclasses dicts, sets sorted lists; tuples stay tuples, tensors stay the same tensors.

    Raises:
        ValueError: something in `obj` has no such form; its place is named.
    """
    return _plain(obj, "")


def _plain(obj: Any, place: str) -> Any:
    if isinstance(obj, np.generic):  # before float: np.float64 is one
        return obj.item()
    if isinstance(obj, Enum):
        return _plain(obj.value, place)
    if obj is None or isinstance(obj, Tensor):
        return obj
    for kind in (bool, int, float, complex, str, bytes):  # subclasses become the built-in itself
        if isinstance(obj, kind):
            return obj if type(obj) is kind else kind(obj)
    if isinstance(obj, (os.PathLike, torch.device, torch.dtype)):
        return str(obj)
    if isinstance(obj, np.ndarray):
        return obj.tolist()
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


def _explained(error: OSError, path: Path) -> OSError:
    """The same error (class and errno) with the file and the space left in its text."""
    try:
        space = f"{shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB free in {path.parent}"
    except OSError:
        space = f"the folder {path.parent} cannot be read"
    kept = "the previous file is unchanged" if path.exists() else "no file was left behind"
    reason = f"{error.strerror or error} while writing ({space}; {kept})"
    return type(error)(error.errno, reason, str(path)) if error.errno is not None else OSError(f"{path}: {reason}")


def _remove_stale(path: Path) -> None:
    """Removes temporary files for `path` whose process, on this machine, is gone."""
    pattern = re.compile(re.escape(f".{path.name}.{socket.gethostname()}-") + r"(\d+)-\d+\.tmp")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_alive(int(match[1])):
            entry.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Forces the new name to the disk, where the file system knows how to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _neighbours(folder: Path) -> str:
    """A hint that names the files of weights in `folder`."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in {".pth", ".pt", ".safetensors"})
    except OSError:
        return ""
    if not names:
        return f" ({folder} holds no .pth or .safetensors file)"
    return f" ({folder} holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''})"


def _check_archive(path: Path) -> None:
    """Compares the checksums of all members (torch itself does not) and refuses what torch.save never writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(".." in Path(m.filename).parts or m.filename.startswith("/") for m in members):
                raise ValueError(f"{path} is refused: the archive holds members outside its own folder")
            if any(Path(m.filename).name == "constants.pkl" for m in members):
                raise ValueError(f"{path} is refused: a TorchScript program; expected a file of weights (a state dict)")
            if any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise ValueError(f"{path} is refused: a compressed archive, which torch.save does not write")
            if not any(Path(m.filename).name == "data.pkl" for m in members):
                raise ValueError(f"{path} is a zip archive, but not one written by torch.save")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({path.stat().st_size:,} bytes; {error}): copy or download it again"
        ) from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged (the checksum of {damaged} differs): copy or download it again")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load_safetensors

    try:
        return load_safetensors(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}): copy or download it again") from error


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(r"(?:GLOBAL|unrecognized function|but got) (\S+)", text)
    if found and isinstance(error, pickle.UnpicklingError):
        return (
            f"{path} is refused: it holds {found[1].rstrip('.,')}, and only plain data (tensors, numbers, strings, "
            "dicts, lists) is read, because anything else could run code; nothing was executed. If you trust its "
            "origin, save its state dict again with torch.save where it was made"
        )
    if "weights_only" in text:  # torch's advice to turn it off, which runs the code in a file; the cause is at its end
        cause = re.search(r"WeightsUnpickler error:\s*(.+)", text)
        text = cause[1] if cause else ""
    first_line = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
    return (
        f"{path} cannot be read as a file of weights ({path.stat().st_size:,} bytes; {first_line}): it is damaged, cut "
        "short or of another kind; copy or download it again"
    )
