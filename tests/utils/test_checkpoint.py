import argparse
import errno
import os
import resource
import signal
import socket
import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils import checkpoint
from utils.checkpoint import load_file, plain, save_atomic


@pytest.fixture
def small_files():
    """A limit on the size of files, so that a write really fails."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_failed_write_keeps_the_previous_files(tmp_path, small_files):
    path = tmp_path / "a.pth"
    for number in range(2):
        save_atomic({"n": number}, path, keep_previous=True)
    with pytest.raises(OSError, match=r"MiB free in .*previous file is unchanged.*a\.pth") as caught:
        save_atomic({"w": torch.zeros(100_000)}, path, keep_previous=True)
    assert caught.value.errno == errno.EFBIG
    assert [load_file(tmp_path / name)["n"] for name in sorted(os.listdir(tmp_path))] == [1, 0]


def test_the_file_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(checkpoint.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    save_atomic({"n": 1}, tmp_path / "a.pth")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_interrupted_save_leaves_nothing(tmp_path, monkeypatch, kind):
    def interrupted(obj, file):
        file.write(b"part")
        raise kind("stop")

    save_atomic({"n": 1}, tmp_path / "a.pth")
    monkeypatch.setattr(checkpoint.torch, "save", interrupted)
    with pytest.raises(kind):
        save_atomic({"n": 2}, tmp_path / "a.pth")
    assert load_file(tmp_path / "a.pth") == {"n": 1} and sorted(os.listdir(tmp_path)) == ["a.pth"]


def test_missing_folder_is_not_created(tmp_path):
    """It may be a mount that has vanished."""
    with pytest.raises(FileNotFoundError, match="gone cannot be read; no file was left behind"):
        save_atomic({}, tmp_path / "gone" / "a.pth", keep_previous=True)
    assert sorted(os.listdir(tmp_path)) == []


def test_remains_of_a_killed_process_go(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    stale = tmp_path / f".a.pth.{host}-{dead.pid}-0.tmp"
    alive = tmp_path / f".a.pth.{host}-{os.getppid()}-0.tmp"
    other = tmp_path / f".b.pth.{host}-{dead.pid}-0.tmp"
    for file in (stale, alive, other):
        file.write_bytes(b"part")
    save_atomic({}, tmp_path / "a.pth")
    assert not stale.exists() and alive.exists() and other.exists()


@pytest.mark.parametrize(
    "content", [argparse.Namespace(a=1), {"best": np.float64(0.5)}, {"path": Path("x")}, torch.nn.Linear(1, 1)]
)
def test_objects_are_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth is refused: it holds (argparse\.|numpy\.|pathlib|torch\.nn)"):
        load_file(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, legacy, part):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(500.0)}, path, _use_new_zipfile_serialization=not legacy)
    assert len(load_file(path)["w"]) == 500
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * part))
    with pytest.raises(ValueError, match=r"a\.pth.*copy or download it again"):
        load_file(path)


def test_torchscript_is_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)).save(str(tmp_path / "a.pth"))
    with pytest.raises(ValueError, match="TorchScript"):
        load_file(tmp_path / "a.pth")


def test_missing_file_names_its_neighbours(tmp_path):
    save_atomic({}, tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"a\.pth.*other\.pth"):
        load_file(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="does not exist either"):
        load_file(tmp_path / "gone" / "a.pth")
    with pytest.raises(IsADirectoryError, match="folder"):
        load_file(tmp_path)


def test_plain_survives_loading(tmp_path):
    @dataclass
    class Options:
        crop: tuple = (np.int64(3), 4)

    class Kind(IntEnum):
        ONE = 1

    weights = torch.ones(2)
    made = plain(
        {
            "args": argparse.Namespace(folder=Path("a/b"), lr=np.float64(0.02), on=np.bool_(True), n=None),
            "space": SimpleNamespace(x=np.str_("text")),
            "options": Options(),
            "kinds": {Kind.ONE},
            "array": np.arange(3),
            "device": torch.device("cpu"),
            "weights": weights,
            np.int32(5): [Kind.ONE],
        }
    )
    assert made == {
        "args": {"folder": "a/b", "lr": 0.02, "on": True, "n": None},
        "space": {"x": "text"},
        "options": {"crop": (3, 4)},
        "kinds": [1],
        "array": [0, 1, 2],
        "device": "cpu",
        "weights": weights,
        5: [1],
    }
    assert type(made["args"]["lr"]) is float and type(made["args"]["on"]) is bool
    assert type(made["options"]["crop"][0]) is int and type(made["kinds"][0]) is int and made["weights"] is weights
    save_atomic(made, tmp_path / "a.pth")
    assert load_file(tmp_path / "a.pth")["args"] == made["args"]


def test_plain_names_what_it_cannot_store():
    with pytest.raises(ValueError, match=r"\['a'\]\[1\] of type function"):
        plain({"a": [1, plain]})


@pytest.mark.parametrize(
    "content", [b"\x80\x02garbage", b"\x89HDF\r\n\x1a\n", b"<html>not found</html>", bytes(range(256)) * 4]
)
def test_files_of_another_kind(content, tmp_path):
    """The message does not repeat torch's advice, which would run a file's code."""
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.pth cannot be read as a file of weights.*of another kind") as refused:
        load_file(tmp_path / "bad.pth")
    assert "weights_only" not in str(refused.value) and "Weights only" not in str(refused.value)
