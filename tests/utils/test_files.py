import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from utils import files
from utils.checkpoint import load_file, save_atomic
from utils.files import atomic_file, previous_of, remove_temporaries, write_text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("hard_links", [True, False])
def test_previous_state_is_kept(hard_links, tmp_path, monkeypatch):
    def refuse(*names):
        raise OSError(errno.EPERM, "no links here")

    if not hard_links:  # the old file is renamed
        monkeypatch.setattr(files.os, "link", refuse)
    path = tmp_path / "a.pth"
    for number in range(4):
        save_atomic({"n": number}, path, keep_previous=True)
        assert load_file(path) == {"n": number}
        assert previous_of(path).exists() == (number > 0)
        assert number == 0 or load_file(previous_of(path)) == {"n": number - 1}
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "a.pth.previous"]


def test_previous_state_of_a_link_is_beside_the_real_file(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.pth"
    link.symlink_to(tmp_path / "disk" / "real.pth")
    for number in range(2):
        save_atomic({"n": number}, link, keep_previous=True)
    assert previous_of(link) == tmp_path / "disk" / "real.pth.previous"
    assert link.is_symlink() and load_file(link) == {"n": 1} and load_file(previous_of(link)) == {"n": 0}
    assert set(os.listdir(tmp_path)) == {"a.pth", "disk"}
    assert set(os.listdir(tmp_path / "disk")) == {"real.pth", "real.pth.previous"}


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
        assert sorted(os.listdir(folder)) == ["a.pth", "a.pth.previous"]
        if done.returncode == 0:
            assert moment > 6  # temporary file, its fsync, link, two renames, the folder
            return
        assert done.returncode == -signal.SIGKILL
    raise AssertionError("a save makes too many calls")


def test_killed_between_the_two_renames(tmp_path):
    """Both names are then links to one file, where a rename does nothing; the next save has to succeed."""
    path = tmp_path / "a.pth"
    save_atomic({"n": 1}, path, keep_previous=True)
    os.link(path, previous_of(path))
    save_atomic({"n": 2}, path, keep_previous=True)
    assert load_file(path) == {"n": 2} and load_file(previous_of(path)) == {"n": 1}
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "a.pth.previous"]


def test_folder_that_vanishes_while_it_is_written(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match="no file was left behind"):
        with atomic_file(tmp_path / "run" / "a.txt") as file:
            file.write(b"part")
            (tmp_path / "run").rename(tmp_path / "gone")
    assert sorted(os.listdir(tmp_path)) == ["gone"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_failing_fsync_of_file_or_folder_is_an_error(call, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(OSError, match="No space left.*free") as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.errno == errno.ENOSPC and sorted(os.listdir(tmp_path)) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == ("old" if call == 1 else "new")


def test_who_alone_may_write_removes_what_others_left(tmp_path):
    left = [f".a.pth.another.host-{os.getpid()}-3.tmp", f".a.pth.previous.x-{os.getpid()}-0.tmp"]
    kept = [".a.pth.tmp", ".b.pth.x-1-0.tmp", "a.pth"]
    for name in [*left, *kept]:
        (tmp_path / name).write_bytes(b"part")
    remove_temporaries([tmp_path / "a.pth"])
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_readers_never_see_a_part(tmp_path):
    def save(number):
        save_atomic({"n": number, "w": torch.full((20_000,), float(number))}, path, keep_previous=True)

    path = tmp_path / "a.pth"
    save(-1)
    seen = set()
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(lambda: [save(number) for number in range(100)])
        while not writer.done():
            state = load_file(path)
            assert bool((state["w"] == state["n"]).all())
            seen.add(state["n"])
        writer.result()
    assert len(seen) > 3
