"""The prepared copy: equal to its source in every sample, and resumed after any interruption."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset import base, build_dataset, prepared
from dataset import prepare as prepare_module
from dataset.loading.loaders import build_eval_loader, build_train_loader
from dataset.prepare import main, prepare
from dataset.prepared import SampleTable, part_path, read_manifest
from dataset.reading.files import read_image
from tests.pseudo_datasets import SPLITS, assert_same_samples, files_of, sample_paths, write_mask, write_source

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
REPOSITORY = Path(__file__).parents[2]
SMALL_PART = 20_000  # three or so samples a file


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", list(SPLITS))
def test_samples_and_facts_are_those_of_the_source(tmp_path, name):
    root, out = write_source(name, tmp_path / "source"), tmp_path / "out"
    prepare(name, root, out, SPLITS[name], workers=0, part_bytes=SMALL_PART)
    for split in SPLITS[name]:
        files, copy = build_dataset(name, root, split), build_dataset(name, out, split)
        assert copy.copy is not None and files.copy is None
        assert_same_samples(files, copy)
        for fact in ("name", "split", "root", "classes", "palette", "num_classes", "label_ids"):
            assert getattr(files, fact) == getattr(copy, fact), fact
        assert list(files.image_paths) == list(copy.image_paths)
        assert (files.mask_paths is None) == (copy.mask_paths is None)
        assert files.mask_paths is None or list(files.mask_paths) == list(copy.mask_paths)
        copy.check_samples()
        assert_same_batches(build_eval_loader(files), build_eval_loader(copy))
    assert len(list((out / "train").glob("part-*"))) > 1
    shutil.rmtree(root)  # the copy stands alone
    assert len(build_dataset(name, out, "train")[0]) == 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["camvid", "ade20k"])
def test_the_training_stream_is_that_of_the_source(tmp_path, name, workers, monkeypatch):
    monkeypatch.setattr(prepared, "_MAPS_KEPT", 1)  # every other sample opens another file
    root, out = write_source(name, tmp_path / "source", 7), tmp_path / "out"
    prepare(name, root, out, workers=2, part_bytes=SMALL_PART)
    loaders = [
        build_train_loader(
            build_dataset(name, path, "train"), crop_size=(24, 31), batch_size=4, max_iterations=60, seed=3, workers=w
        )
        for path, w in ((root, 0), (out, workers))
    ]
    assert_same_batches(*loaders)


def test_training_reads_the_window_alone(source, tmp_path):
    """A view is a map of the file, not a copy, and what it is cut from cannot be written to."""
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0)
    data = build_dataset("custom", out, "train")
    mask = data.view_mask(1)
    image = data.view_image(1, 1, mask.shape)
    assert not image.flags.owndata and not image.flags.writeable and not mask.flags.owndata
    path = part_path(out, "train", 0)
    content = bytearray(path.read_bytes())
    table = data.copy._copy.table
    content[int(table.offsets[1])] ^= 255  # seen through the map at once: nothing had been read before
    with open(path, "r+b") as file:
        file.write(content)
    assert image[0, 0, 0] == content[int(table.offsets[1])]


def test_a_finished_copy_is_left_alone_and_splits_are_added(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare("custom", source, out, ["train"], workers=0, part_bytes=SMALL_PART) >= 2
    before = files_of(out)
    assert prepare("custom", source, out, ["train"], workers=0, part_bytes=SMALL_PART) == 0
    with pytest.raises(ValueError, match=r"has no split 'val'; it has train.*--split val"):
        build_dataset("custom", out, "val")
    assert prepare("custom", source, out, ["train", "val"], workers=0, part_bytes=SMALL_PART) >= 2
    assert before.items() <= files_of(out).items()
    assert_same_samples(build_dataset("custom", source, "val"), build_dataset("custom", out, "val"))
    capsys.readouterr()
    assert main(["custom", str(source), str(out), "--workers", "0"]) == 0
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize(("stop_at", "call"), [("read", 4), ("replace", 6)])
def test_an_interrupted_run_goes_on(source, tmp_path, monkeypatch, stop_at, call):
    out = tmp_path / "out"
    calls = []

    def stopping(function):
        def wrapped(*args):
            calls.append(args)
            if len(calls) == call:
                raise KeyboardInterrupt
            return function(*args)

        return wrapped

    with monkeypatch.context() as patch:
        if stop_at == "read":
            patch.setattr(base, "read_image", stopping(read_image))
        else:
            patch.setattr(prepare_module.os, "replace", stopping(os.replace))
        with pytest.raises(KeyboardInterrupt):
            prepare("custom", source, out, workers=0, part_bytes=SMALL_PART)
    with pytest.raises(ValueError, match=r"unfinished in split train; go on with: python -m dataset\.prepare custom"):
        build_dataset("custom", out, "train")
    finished = files_of(out)
    prepare("custom", source, out, workers=0, part_bytes=SMALL_PART)
    kept = {path: time for path, time in files_of(out).items() if path in finished and path.suffix == ".bin"}
    assert kept == {path: time for path, time in finished.items() if path.suffix == ".bin"}
    assert not list(out.rglob("*.tmp"))
    for split in ("train", "val"):
        assert_same_samples(build_dataset("custom", source, split), build_dataset("custom", out, split))


def test_a_stop_before_anything_was_written_is_no_obstacle(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(SampleTable, "encode", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare("custom", source, out, workers=0)
    with pytest.raises(ValueError, match="has no split 'train'"):
        build_dataset("custom", out, "train")
    assert prepare("custom", source, out, workers=0) == 2
    assert len(build_dataset("custom", out, "train")) == 5


def test_what_a_run_leaves_that_was_killed_at_once_is_no_obstacle(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("prepared.lock", ".prepared.json.somewhere-1-0.tmp"):
        (out / name).touch()
    assert prepare("custom", source, out, workers=0) == 2


def test_manifest_says_what_the_copy_holds(source, tmp_path):
    prepare("custom", source, tmp_path / "out", workers=0)
    manifest = read_manifest(tmp_path / "out")
    train = manifest["splits"]["train"]
    assert manifest["dataset"] == "custom" and manifest["source"] == str(source) and len(manifest["label_table"]) == 256
    assert train["count"] == 5 and train["masks"] and train["complete"]
    assert train["smallest_sides"] == [7, 29] and train["largest_sides"] == [41, 90]
    assert train["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out/train").glob("part-*"))


@pytest.mark.parametrize(("made_with", "wanted"), [(None, 1), (None, 77), (None, 255), (1, 1), (77, 77), (None, None)])
def test_ignore_labels_work_as_with_the_source(source, tmp_path, made_with, wanted):
    if made_with == 77:
        write_mask(source / "masks/train_000.png", np.full((32, 48), 77, dtype=np.uint8))
    prepare("custom", source, tmp_path / "out", ["train"], ignore_label=made_with, workers=0)
    pair = [build_dataset("custom", root, "train", ignore_label=wanted) for root in (source, tmp_path / "out")]
    assert_same_samples(*pair)
    loaders = [build_train_loader(data, crop_size=(16, 16), batch_size=2, max_iterations=5) for data in pair]
    assert_same_batches(*loaders)


@pytest.mark.parametrize(("made_with", "wanted", "value"), [(1, None, "1"), (77, None, "77"), (2, 1, "2")])
def test_ignore_labels_that_the_copy_cannot_undo(source, tmp_path, made_with, wanted, value):
    prepare("custom", source, tmp_path / "out", ["train"], ignore_label=made_with, workers=0)
    with pytest.raises(ValueError, match=rf"another label map .*value\(s\) {value} cannot"):
        build_dataset("custom", tmp_path / "out", "train", ignore_label=wanted)


@pytest.mark.parametrize("name", ["custom", "voc"])
def test_list_files_pick_from_the_copy(tmp_path, name):
    root, out = write_source(name, tmp_path / "source"), tmp_path / "out"
    prepare(name, root, out, workers=0)
    pairs = [sample_paths(name, "train", f"train_{index:03d}") for index in (3, 1)]
    own = tmp_path / "own.txt"
    own.write_text("".join(f"{root / image if name == 'custom' else '/' + image} {mask}\n" for image, mask in pairs))
    files = build_dataset(name, root, "train", list_file=str(own))
    shutil.copytree(root, tmp_path / "kept")
    copy = build_dataset(name, out, "train", list_file=str(own))
    assert [Path(path).stem for path in copy.image_paths] == ["train_003", "train_001"]
    assert_same_samples(files, copy)
    shutil.rmtree(root)
    assert len(build_dataset(name, out, "train", list_file=str(own))) == 2
    image, mask = sample_paths(name, "val", "val_000")
    own.write_text(f"{image} {mask}\n")
    with pytest.raises(ValueError, match=r"own\.txt names .*val_000.*does not have"):
        build_dataset(name, out, "train", list_file=str(own))


_RUN = "from dataset.prepare import run; run()"


@pytest.mark.parametrize("signal_name", ["INT", "KILL"])
def test_the_processes_end_with_their_parent_and_the_run_goes_on(tmp_path, signal_name):
    root, out = write_source("camvid", tmp_path / "source", 3, ((900, 1200),)), tmp_path / "out"
    command = [sys.executable, "-c", "import time, dataset.base as b; read = b.read_image\n"
               "b.read_image = lambda path: (time.sleep(0.7), read(path))[1]\n" + _RUN,
               "camvid", str(root), str(out), "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/*.tmp"))) < 2:  # both workers are at work
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    if signal_name == "INT":
        os.killpg(process.pid, 2)
        assert "goes on where this one stopped" in process.communicate(timeout=30)[1] and process.returncode == 130
    else:
        process.kill()
        process.communicate(timeout=30)
    while _alive(process.pid):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.1)
    assert main(["camvid", str(root), str(out), "--workers", "0"]) == 0
    assert_same_samples(build_dataset("camvid", root, "train"), build_dataset("camvid", out, "train"))


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
