import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from utils import files
from utils.checkpoint import load_file, save_atomic
from utils.files import atomic_file, previous_of, remove_temporaries, write_text

ROOT = Path(__file__).parents[2]


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def mount(words, folder):
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder, size="2m"):
    """A file system of its own at `folder`; skips where that is not permitted."""
    folder.mkdir()
    mount(["-t", "tmpfs", "-o", f"size={size}", "tmpfs"], folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], timeout=30, check=True)


def test_previous_state_is_kept_and_costs_no_copy(tmp_path):
    path = tmp_path / "a.pth"
    for number in range(4):
        save_atomic({"n": number}, path, keep_previous=True)
        assert load_file(path) == {"n": number}
        assert previous_of(path).exists() == (number > 0)
        assert number == 0 or load_file(previous_of(path)) == {"n": number - 1}
    assert entries(tmp_path) == ["a.pth", "a.pth.previous"]


def test_previous_state_of_a_link_lies_beside_the_real_file(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.pth"
    link.symlink_to(tmp_path / "disk" / "real.pth")
    for number in range(2):
        save_atomic({"n": number}, link, keep_previous=True)
    assert previous_of(link) == tmp_path / "disk" / "real.pth.previous"
    assert link.is_symlink() and load_file(previous_of(link)) == {"n": 0}


def test_without_hard_links_the_old_file_is_renamed(tmp_path, monkeypatch):
    def refuse(*names):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    for number in range(3):
        save_atomic({"n": number}, tmp_path / "a.pth", keep_previous=True)
    assert load_file(tmp_path / "a.pth") == {"n": 2} and load_file(tmp_path / "a.pth.previous") == {"n": 1}
    assert entries(tmp_path) == ["a.pth", "a.pth.previous"]


KILLED = """
import os, signal, sys
from utils import files
from utils.checkpoint import save_atomic
path, moment = sys.argv[1], int(sys.argv[2])
save_atomic({"n": 1}, path, keep_previous=True)
save_atomic({"n": 2}, path, keep_previous=True)
calls = 0
def killing(function):
    def call(*words, **named):
        global calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **named)
    return call
for name in ("open", "fsync", "link", "replace", "unlink"):
    setattr(files.os, name, killing(getattr(os, name)))
sys.addaudithook(lambda event, words: event == "open" and str(words[0]).endswith(".tmp") and killing(id)(0))
save_atomic({"n": 3}, path, keep_previous=True)
print(calls)
"""


@pytest.mark.slow
def test_killed_at_any_call_of_a_save_a_good_state_is_left(tmp_path):
    """SIGKILL right before each call that changes the folder, until a save comes through."""
    for moment in range(1, 30):
        folder = tmp_path / str(moment)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", KILLED, folder / "a.pth", str(moment)], cwd=ROOT, capture_output=True, timeout=120
        )
        expected = {3} if done.returncode == 0 else {2, 3}
        assert load_file(folder / "a.pth")["n"] in expected
        assert load_file(folder / "a.pth.previous")["n"] in {1, 2}
        save_atomic({"n": 4}, folder / "a.pth", keep_previous=True)  # as the resumed run does
        assert load_file(folder / "a.pth.previous")["n"] in expected
        assert entries(folder) == ["a.pth", "a.pth.previous"]
        if done.returncode == 0:
            assert moment > 6  # temporary file, its fsync, link, two renames, the folder
            return
        assert done.returncode == -signal.SIGKILL
    raise AssertionError("a save makes too many calls")


def test_killed_between_the_two_renames(tmp_path, monkeypatch):
    """Both names then stand for one file, which a further save has to cope with: a rename does nothing there."""
    path = tmp_path / "a.pth"
    save_atomic({"n": 1}, path, keep_previous=True)
    os.link(path, previous_of(path))
    save_atomic({"n": 2}, path, keep_previous=True)
    assert load_file(path) == {"n": 2} and load_file(previous_of(path)) == {"n": 1}
    assert entries(tmp_path) == ["a.pth", "a.pth.previous"]


def test_full_disk(tmp_path):
    """A file system of 2 MiB: the states that were there are the ones that are there afterwards."""
    with small_disk(tmp_path / "disk") as disk:
        for number in range(2):
            save_atomic({"n": number, "w": torch.zeros(100_000)}, disk / "a.pth", keep_previous=True)
        with pytest.raises(OSError, match=r"No space left.*MiB free in .*previous file is unchanged.*a\.pth") as caught:
            save_atomic({"n": 2, "w": torch.zeros(400_000)}, disk / "a.pth", keep_previous=True)
        assert caught.value.errno == errno.ENOSPC
        assert entries(disk) == ["a.pth", "a.pth.previous"]
        assert [load_file(disk / name)["n"] for name in ("a.pth", "a.pth.previous")] == [1, 0]


def test_read_only_folder(tmp_path):
    """A read-only mount, which holds for root too."""
    with small_disk(tmp_path / "disk") as disk:
        save_atomic({"n": 1}, disk / "a.pth")
        mount(["-o", "remount,ro"], disk)
        with pytest.raises(OSError, match=r"Read-only file system.*previous file is unchanged.*a\.pth") as caught:
            save_atomic({"n": 2}, disk / "a.pth", keep_previous=True)
        assert caught.value.errno == errno.EROFS and load_file(disk / "a.pth") == {"n": 1}


def test_read_only_folder_where_nothing_can_be_mounted(tmp_path, monkeypatch):
    save_atomic({"n": 1}, tmp_path / "a.pth")

    def refuse(*words, **named):
        raise OSError(errno.EROFS, "Read-only file system", words[0])

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="Read-only file system.*previous file is unchanged") as caught:
        save_atomic({"n": 2}, tmp_path / "a.pth")
    monkeypatch.undo()
    assert caught.value.errno == errno.EROFS and load_file(tmp_path / "a.pth") == {"n": 1}


def test_vanished_mount(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "run").mkdir()
        save_atomic({"n": 1}, disk / "run" / "a.pth")
    with pytest.raises(FileNotFoundError, match="cannot be read; no file was left behind"):
        save_atomic({"n": 2}, tmp_path / "disk" / "run" / "a.pth", keep_previous=True)
    assert entries(tmp_path / "disk") == []


def test_folder_that_vanishes_while_it_is_written(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match="no file was left behind"):
        with atomic_file(tmp_path / "run" / "a.txt") as file:
            file.write(b"part")
            (tmp_path / "run").rename(tmp_path / "gone")
    assert entries(tmp_path) == ["gone"]


def test_a_failing_fsync_of_the_folder_is_told(tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "text")


def test_who_alone_may_write_removes_what_others_left(tmp_path):
    left = [f".a.pth.another.host-{os.getpid()}-3.tmp", f".a.pth.previous.x-{os.getpid()}-0.tmp"]
    kept = [".a.pth.tmp", ".b.pth.x-1-0.tmp", "a.pth"]
    for name in [*left, *kept]:
        (tmp_path / name).write_bytes(b"part")
    remove_temporaries([tmp_path / "a.pth"])
    assert entries(tmp_path) == sorted(kept)


def test_text_is_whole_or_not_there(tmp_path):
    write_text(tmp_path / "a.json", json.dumps({"ä": 1}, ensure_ascii=False))
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\ud800")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": 1} and entries(tmp_path) == ["a.json"]


def test_readers_never_see_a_part(tmp_path):
    """A process that writes all the time, and one that reads."""
    code = (
        "import sys, torch\nfrom utils.checkpoint import save_atomic\n"
        "for n in range(200): save_atomic({'n': n, 'w': torch.full((20_000,), float(n))}, sys.argv[1], True)"
    )
    path = tmp_path / "a.pth"
    save_atomic({"n": -1, "w": torch.full((20_000,), -1.0)}, path)
    writer = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT)
    seen = set()
    try:
        deadline = time.monotonic() + 100
        while writer.poll() is None and time.monotonic() < deadline:
            state = load_file(path)
            assert bool((state["w"] == state["n"]).all())
            seen.add(state["n"])
    finally:
        writer.kill()
    assert writer.wait() == 0 and len(seen) > 3
