"""One run for each folder: a kernel lock that its process holds until it ends, however it ends."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

LOCK_NAME = ".lock"
HELD_BY_OTHERS = (errno.EACCES, errno.EAGAIN)
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

# (process, device, inode) -> descriptor. With the process, since a fork has this table too, but not the locks.
_held: dict[tuple[int, int, int], int] = {}


class FolderInUseError(OSError):
    """Another process holds the folder."""


def hold_folder(folder: Path, advice: str = "choose another folder (--save-dir-name)") -> str | None:
    """Takes the folder for this process until it ends; twice by one process does no harm.

    The lock is a POSIX one (`fcntl.lockf`) on the file `.lock`: it belongs to the process alone, so that it is free
    as soon as the process is gone, also by SIGKILL, even if loader workers that it forked live on (they would keep a
    lock by `flock`); and NFS supports it. The file remains.

    Args:
        folder: an existing one.
        advice: what to do, besides waiting, where another process holds it.

    Returns:
        None, or a warning where the file system has no locks.

    Raises:
        FolderInUseError: another process holds it; names machine, process and start.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK_NAME
    while True:
        # Not opened if we hold it: closing any descriptor of the file would give the lock back.
        if _key(path) in _held:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            reason = f"{error.strerror}: nothing can be written to the run's folder"
            raise type(error)(error.errno, reason, str(folder)) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _key(path) != _key(descriptor):  # the file was removed after it was opened, as with its whole folder
                os.close(descriptor)
                continue
        except OSError as error:
            os.close(descriptor)
            if error.errno in HELD_BY_OTHERS:
                raise FolderInUseError(
                    f"{folder} is in use: {_holder(path)}. Wait for its end or end it, or {advice}."
                ) from error
            if error.errno in NO_LOCKS_HERE:
                return f"{folder} is on a file system without locks: a second run into it would not be refused."
            raise
        _held[_key(descriptor)] = descriptor
        _sign(descriptor)
        return None


@contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """As `hold_folder`, for a block, in which the folder may be removed."""
    hold_folder(folder)
    key = _key(folder / LOCK_NAME)
    try:
        yield
    finally:
        if key in _held:
            os.close(_held.pop(key))


def _key(file: Path | int) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return os.getpid(), status.st_dev, status.st_ino


def _sign(descriptor: int) -> None:
    """Notes who holds the lock, for the message to others; a full disk does not matter."""
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started}) + "\n"
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(path: Path) -> str:
    for _ in range(5):  # the lock is taken a moment before it is signed
        with suppress(OSError, ValueError, KeyError, TypeError):
            signed = json.loads(path.read_text(encoding="utf-8"))
            return f"process {signed['pid']} on {signed['host']} has held it since {signed['started']}"
        time.sleep(0.02)
    return "another process holds it"
