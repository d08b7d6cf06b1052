"""What a prepared copy finds damaged or changed, and what making one refuses."""

import fcntl
import json
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest

from dataset import build_dataset
from dataset.loading.loaders import build_train_loader
from dataset.prepare import main, prepare
from dataset.prepared import MANIFEST, part_path
from tests.programs import exit_code
from tests.pseudo_datasets import assert_same_samples, files_of, write_mask, write_source

SMALL_PART = 20_000  # three or so samples a file


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_bad_file_of_a_finished_copy_is_made_again(source, tmp_path, damage):
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0, part_bytes=SMALL_PART)
    before = files_of(out)
    path = part_path(out, "train", 1)
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"{path.name} .*\(1 of 2 files are bad\)\. Mend it with: python"):
        build_dataset("custom", out, "train")
    assert prepare("custom", source, out, workers=0, part_bytes=SMALL_PART) == 1
    after = files_of(out)
    assert [p for p in after if after[p] != before[p]] == [path]
    assert_same_samples(build_dataset("custom", source, "train"), build_dataset("custom", out, "train"))


def test_a_corrupted_byte_is_found(source, tmp_path, capsys):
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0)
    arguments = ["custom", str(source), str(out), "--verify", "--workers"]
    assert exit_code(main, [*arguments, "2"]) == 0 and "equal to its source" in capsys.readouterr().out
    table = build_dataset("custom", out, "train").copy._copy.table
    with open(part_path(out, "train", 0), "r+b") as file:
        file.seek(int(table.offsets[3]) + 100)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    for workers in ("0", "2"):
        assert exit_code(main, [*arguments, workers]) == 1
        output = capsys.readouterr().out
        assert "train_003.png" in output and "checksum differs" in output and len(output.splitlines()) == 1
    data = build_dataset("custom", out, "train")
    data[2]
    with pytest.raises(ValueError, match=r"train_003\.png .*is damaged"):
        data.check_samples()  # before a training starts


@pytest.mark.parametrize("label", [3, 200, 254])
def test_training_finds_a_label_that_is_no_class(source, tmp_path, label):
    """Windows of a sample are read without its checksum."""
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0)
    data = build_dataset("custom", out, "train")
    assert data.num_classes == 3
    list(build_train_loader(data, crop_size=(48, 96), batch_size=1, max_iterations=15, scales=[1.0]))
    table = data.copy._copy.table
    with open(part_path(out, "train", 0), "r+b") as file:
        file.seek(int(table.offsets[3] + table.lengths[3]) - 1)
        file.write(bytes([label]))
    with pytest.raises(ValueError, match=r"train_003\.png .* is damaged \(it holds a label that is no class\): remove"):
        list(build_train_loader(data, crop_size=(48, 96), batch_size=1, max_iterations=15, scales=[1.0]))


def test_verify_finds_a_source_that_has_changed(source, tmp_path, capsys):
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0)
    write_mask(source / "masks/train_001.png", np.full((41, 29), 2, dtype=np.uint8))
    assert exit_code(main, ["custom", str(source), str(out), "--verify", "--workers", "0"]) == 1
    assert "train_001.png is not what the copy" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"1 sample\(s\) have changed since, first images/train_001\.png"):
        prepare("custom", source, out, workers=0)
    prepare("custom", source, out, workers=0, overwrite=True)
    assert exit_code(main, ["custom", str(source), str(out), "--verify", "--workers", "0"]) == 0


def test_a_copy_that_another_process_writes_is_left_alone(source, tmp_path, capsys):
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with open(out / "prepared.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert exit_code(main, ["custom", str(source), str(out), "--workers", "0", "--overwrite"]) == 2
    assert f"another process is writing to {out}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_too_little_disk_is_refused_before_anything_is_written(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "out"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    assert exit_code(main, ["custom", str(source), str(out), "--workers", "0"]) == 2
    output = capsys.readouterr()
    assert "error: the copy needs 0.0 MiB more" in output.err and "make room" in output.err
    assert "train: 5 samples" in output.out and not (tmp_path / "deep").exists()


def test_other_names_folders_and_manifests(source, tmp_path, capsys):
    out = tmp_path / "out"
    prepare("custom", source, out, workers=0)
    with pytest.raises(ValueError, match="is a prepared copy of custom, not of camvid"):
        build_dataset("camvid", out, "train")
    with pytest.raises(ValueError, match="prepared copy itself"):
        prepare("custom", out, tmp_path / "other", workers=0)
    with pytest.raises(ValueError, match="holds something else"):
        prepare("custom", source, source, workers=0)
    camvid = write_source("camvid", tmp_path / "camvid")
    with pytest.raises(ValueError, match="copy with another dataset: custom instead of camvid"):
        prepare("camvid", camvid, out, workers=0)
    manifest = json.loads((out / MANIFEST).read_text())
    for change, message in (
        ({"classes": ["a", "b", "c"]}, "has been changed"),
        ({"version": 99}, "version 99"),
        ({"format": "other"}, "is not the manifest"),
    ):
        (out / MANIFEST).write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=message):
            build_dataset("custom", out, "train")
    (out / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="is not the manifest"):
        build_dataset("custom", out, "train")
    (out / MANIFEST).write_text(json.dumps(manifest))
    with open(out / "train" / "samples.npz", "ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"samples\.npz is missing or has been changed"):
        build_dataset("custom", out, "train")
    assert (
        exit_code(main, ["custom", str(tmp_path / "nowhere"), str(out)]) == 2 and "nowhere" in capsys.readouterr().err
    )


def test_a_bad_sample_is_named_and_stops_the_run(source, tmp_path, capsys):
    (source / "masks/train_002.png").write_bytes(b"\x89PNG")
    for workers in ("0", "2"):
        assert exit_code(main, ["custom", str(source), str(tmp_path / "out"), "--workers", workers]) == 2
        assert "masks/train_002.png cannot be read" in capsys.readouterr().err
