"""Atomic writes: a temporary file beside the target, forced to the disk, then renamed."""

import errno
import itertools
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PREVIOUS_SUFFIX = ".previous"

_counter = itertools.count()


class _Recorder:
    """A binary file that keeps the first OSError of a write: torch.save hides it behind a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.flush = file, file.flush
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


@contextmanager
def atomic_file(path: str | os.PathLike, keep_previous: bool = False) -> Iterator[BinaryIO]:
    """Opens a file whose bytes take the name `path` when the block ends, and none of which remain when it fails.

    At every moment, also after SIGKILL or a loss of power, `path` holds its old content or the whole new one. A
    symbolic link is followed. Temporary files that a killed process left for the same `path` are removed. The folder
    has to exist: creating it here would hide a mount that has vanished.

    Args:
        path: file to write.
        keep_previous: keep the old content as `previous_of(path)`, which is replaced. It is a second name of the same
            bytes, so that the disk holds at most three files, and that only while the new one is written. On a file
            system without hard links the old file is renamed, and for a moment only that name exists.

    Yields:
        A file to write bytes to.

    Raises:
        OSError: the file could not be written (its `errno` is that of the failed call, ENOSPC for a full disk); the
            text names the file, the space left and what remains. The previous file is untouched.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary(path)
    recorder = None
    try:
        _remove_stale(path)
        with open(temporary, "xb") as file:
            recorder = _Recorder(file)
            yield recorder
            recorder.flush()
            os.fsync(file.fileno())
        if keep_previous:
            _keep_previous(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the first failure is the one to report
            temporary.unlink()
        cause = recorder.error if recorder and recorder.error else error
        if isinstance(cause, OSError):
            raise _explained(cause, path) from error
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text, UTF-8, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def previous_of(path: str | os.PathLike) -> Path:
    """Where `atomic_file` keeps the previous content of `path`; beside the file that a link points to."""
    path = Path(os.path.realpath(path))
    return path.with_name(path.name + PREVIOUS_SUFFIX)


def remove_temporaries(paths: Iterable[Path]) -> None:
    """Removes all temporary files for `paths`, of any machine: for a process that alone may write them."""
    for path in paths:
        for kept in (Path(os.path.realpath(path)), previous_of(path)):
            _remove_stale(kept, every=True)


def space_left(folder: Path) -> str:
    """How much space is left, in words for a message."""
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free in {folder}"
    except OSError:
        return f"the folder {folder} cannot be read"


def _keep_previous(path: Path) -> None:
    """Gives the old content the second name; it never loses the first one before the new content takes it."""
    if not path.exists():
        return
    kept = previous_of(path)
    _remove_stale(kept)
    link = _temporary(kept)
    try:
        os.link(path, link)
    except OSError:  # no hard links here
        os.replace(path, kept)
        return
    try:
        os.replace(link, kept)
    finally:
        link.unlink(missing_ok=True)  # a rename does nothing where both names are links to one file already


def _explained(error: OSError, path: Path) -> OSError:
    """The same error (class and errno) with the file, the space left and what remains in its text."""
    remains = "no file was left behind"
    if path.exists():
        remains = "the previous file is unchanged"
    elif previous_of(path).exists():
        remains = f"the previous file is {previous_of(path).name}"
    reason = f"{error.strerror or error} while writing ({space_left(path.parent)}; {remains})"
    return type(error)(error.errno, reason, str(path)) if error.errno is not None else OSError(f"{path}: {reason}")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{next(_counter)}.tmp")


def _remove_stale(path: Path, every: bool = False) -> None:
    """Removes temporary files for `path` whose process, on this machine, is gone; or every one."""
    host = ".*" if every else re.escape(socket.gethostname())
    pattern = re.compile(re.escape(f".{path.name}.") + host + r"-(\d+)-\d+\.tmp")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and (every or not _is_alive(int(match[1]))):
            entry.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Forces the new name to the disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be written and not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
