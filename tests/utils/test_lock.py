import errno
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from utils import lock
from utils.lock import LOCK_NAME, FolderInUseError, folder_held, hold_folder

ROOT = Path(__file__).parents[2]
# Takes the folder, with a forked child that outlives it as a loader's worker might; prints the child's id, and waits.
HOLDER = """
import os, sys, time
from pathlib import Path
from utils.lock import hold_folder
assert hold_folder(Path(sys.argv[1])) is None
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder):
    """A process that holds the folder, and its child's id."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process, child
    for pid in (process.pid, child):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    with held_elsewhere(tmp_path) as held:
        yield held


def test_second_process_is_refused_and_the_first_is_named(tmp_path, holder):
    process, _ = holder
    with pytest.raises(FolderInUseError) as refused:
        hold_folder(tmp_path)
    text = str(refused.value)
    assert str(tmp_path) in text and f"process {process.pid} on {socket.gethostname()}" in text
    started = json.loads((tmp_path / LOCK_NAME).read_text())["started"]
    assert started in text and "--save-dir-name" in text
    with pytest.raises(FolderInUseError, match="choose another --output"):
        hold_folder(tmp_path, "choose another --output")
    (tmp_path / LOCK_NAME).write_text("{}")
    with pytest.raises(FolderInUseError, match="in use: another process holds it"):
        hold_folder(tmp_path)


def test_lock_dies_with_its_process_though_a_forked_child_lives_on(tmp_path, holder):
    process, child = holder
    process.kill()
    process.wait()
    os.kill(child, 0)  # it is there still
    with folder_held(tmp_path):
        signed = json.loads((tmp_path / LOCK_NAME).read_text())
        assert signed["pid"] == os.getpid()


def test_one_process_may_take_a_folder_twice_but_not_its_forked_child(tmp_path):
    with folder_held(tmp_path):
        assert hold_folder(tmp_path) is None  # closing a second descriptor would have released the lock
        child = os.fork()
        if child == 0:
            code = 1
            try:
                hold_folder(tmp_path)
            except FolderInUseError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def test_folder_removed_while_it_is_held(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with folder_held(folder):
        (folder / LOCK_NAME).unlink()
        folder.rmdir()
    assert len(os.listdir("/proc/self/fd")) == before
    folder.mkdir()
    with folder_held(folder):
        pass


def test_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def refuse(*words):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    before = len(os.listdir("/proc/self/fd"))
    assert "without locks" in hold_folder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nothing can be written to the run's folder.*gone"):
        hold_folder(tmp_path / "gone")

    def refuse(*words):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock.os, "open", refuse)
    with pytest.raises(OSError, match="Read-only file system: nothing can be written to the run's folder"):
        hold_folder(tmp_path)
