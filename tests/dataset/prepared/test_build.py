"""Building a decoded cache: continued after any interruption, refused where it would go wrong."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from dataset import base, build_dataset
from dataset.config import ReadingConfig
from dataset.prepare import main
from dataset.prepared import build
from tests.dataset.conftest import build_small
from tests.programs import exit_code
from tests.pseudo_datasets import assert_same_samples, files_of, write_mask, write_source

REPOSITORY = Path(__file__).parents[3]


def stopping(function, call):
    """The function, which raises KeyboardInterrupt at this call."""
    calls = []

    def wrapped(*args):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args)

    return wrapped


def test_a_complete_cache_is_left_alone_and_splits_are_added(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert build_small(source, out, ["train"]) >= 2
    before = files_of(out)
    assert build_small(source, out, ["train"]) == 0
    assert build_small(source, out, ["train", "val"]) >= 2
    assert before.items() <= files_of(out).items()
    assert_same_samples(build_dataset("custom", source, "val"), build_dataset("custom", out, "val"))
    capsys.readouterr()
    assert main(["custom", str(source), str(out), "--workers", "0"]) == 0
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "name", "call"), [(base, "read_image", 5), (os, "replace", 6)])
def test_an_interrupted_build_is_continued(source, tmp_path, monkeypatch, module, name, call):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopping(getattr(module, name), call))
        with pytest.raises(KeyboardInterrupt):
            build_small(source, out)
    (out / "train" / "part-00001.bin.tmp").touch()  # as a killed process leaves it
    with pytest.raises(ValueError, match=r"is incomplete: .*Complete it with: python -m dataset\.prepare custom"):
        build_dataset("custom", out, "train")
    finished = files_of(out)
    finished.pop(out / "train" / "part-00001.bin.tmp")
    assert finished
    build_small(source, out)
    assert finished.items() <= files_of(out).items()
    assert not list(out.rglob("*.tmp"))
    for split in ("train", "val"):
        assert_same_samples(build_dataset("custom", source, split), build_dataset("custom", out, split))


def test_a_build_stopped_before_its_first_sample_is_continued(source, tmp_path, monkeypatch):
    (out := tmp_path / "out").mkdir()
    for name in ("prepared.lock", ".prepared.json.host-1-0.tmp"):  # killed before the manifest was there
        (out / name).touch()
    for call in (1, 2):  # the table of a split is not written
        with monkeypatch.context() as patch:
            patch.setattr(build, "atomic_file", stopping(build.atomic_file, call))
            with pytest.raises(KeyboardInterrupt):
                build_small(source, out)
        with pytest.raises(ValueError, match="has no split train"):
            build_dataset("custom", out, "train")
    assert build_small(source, out) == 4
    assert_same_samples(build_dataset("custom", source, "train"), build_dataset("custom", out, "train"))


def test_a_changed_source_is_refused_and_overwritten(source, tmp_path, capsys):
    out = tmp_path / "out"
    build_small(source, out)
    write_mask(source / "masks/train_001.png", np.full((41, 29), 2, dtype=np.uint8))
    verify = ["custom", str(source), str(out), "--verify", "--workers", "0"]
    assert exit_code(main, verify) == 1
    assert "train_001.png differs from the decoded cache" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"1 sample\(s\) of the source .*changed.* first images/train_001\.png"):
        build_small(source, out)
    with pytest.raises(ValueError, match=r"another reading .*'ignore_label': 1"):
        build_small(source, out, reading=ReadingConfig(ignore_label=1))
    build_small(source, out, overwrite=True)
    assert exit_code(main, verify) == 0
    lines = (source / "train.txt").read_text().splitlines(keepends=True)
    (source / "train.txt").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"1 sample\(s\) of the source .*removed.* first images/train_004\.png"):
        build_small(source, out)
    assert exit_code(main, verify) == 1 and "4 images in" in capsys.readouterr().out


def test_a_cache_that_another_process_writes_is_left_alone(source, tmp_path, capsys):
    out = tmp_path / "out"
    build_small(source, out)
    before = files_of(out)
    with open(out / "prepared.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert exit_code(main, ["custom", str(source), str(out), "--workers", "0", "--overwrite"]) == 2
    assert f"another process is writing to {out}" in capsys.readouterr().err
    assert files_of(out) == before and main(["custom", str(source), str(out), "--workers", "0", "--verify"]) == 0


def test_too_little_disk_is_refused_before_anything_is_written(source, tmp_path, monkeypatch, capsys):
    out, usage = tmp_path / "out", namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    assert exit_code(main, ["custom", str(source), str(out), "--workers", "0"]) == 2
    assert "error: too little disk space: 2 file(s), 0.0 MiB, to write; 0 MiB free" in capsys.readouterr().err
    assert not out.exists()


def test_wrong_folders_and_bad_samples_are_refused(source, tmp_path, capsys):
    out, camvid = tmp_path / "out", write_source("camvid", tmp_path / "camvid", 1)
    build_small(source, out)
    for name, root, folder, message in (
        ("custom", out, tmp_path / "other", "is a decoded cache itself"),
        ("custom", source, source, "is neither empty nor a decoded cache"),
        ("camvid", camvid, out, "was built from another data set"),
        ("custom", tmp_path / "nowhere", out, "nowhere does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build_small(root, folder, name=name)
    for file, content, workers in (("masks", b"\x89PNG", "0"), ("masks", b"\x89PNG", "2"), ("images", b"", "0")):
        (source / file / "train_002.png").write_bytes(content)
        assert exit_code(main, ["custom", str(source), str(tmp_path / "new"), "--workers", workers]) == 2
        assert f"{file}/train_002.png cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent_and_the_build_is_continued(tmp_path, signal_number):
    root, out = write_source("camvid", tmp_path / "source", 3, ((90, 120),)), tmp_path / "out"
    code = "import runpy, time, dataset.base as base; read = base.read_image\n"
    code += "base.read_image = lambda *of: (time.sleep(0.4), read(*of))[1]\n"
    code += "runpy.run_module('dataset.prepare', run_name='__main__')"
    command = [sys.executable, "-c", code, "camvid", str(root), str(out), "--workers", "2"]
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/*.tmp"))) < 2:  # both workers are writing
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal_number)
        errors = process.communicate(timeout=30)[1]
        assert "the same command continues where this one stopped" in errors and process.returncode == 130
    else:
        process.kill()
        process.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):  # no worker outlives the process that started it
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    assert main(["camvid", str(root), str(out), "--workers", "0"]) == 0
    assert not list(out.rglob("*.tmp"))
    assert_same_samples(build_dataset("camvid", root, "train"), build_dataset("camvid", out, "train"))
