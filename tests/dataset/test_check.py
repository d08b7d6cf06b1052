"""The check of a data set: what is found, what is reported, and the exit code."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.check.checks import PUBLISHED_COUNTS, check_dataset, main
from dataset.prepared.build import build_cache
from tests.programs import exit_code
from tests.pseudo_datasets import (
    MASK_VALUES,
    SPLITS,
    block_mask,
    sample_paths,
    write_image,
    write_mask,
    write_pseudo_dataset,
)


@pytest.fixture
def own(tmp_path):
    return write_pseudo_dataset("custom", tmp_path / "own", count=20)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Label counts are kept in a folder runs of the working directory."""
    monkeypatch.chdir(tmp_path)


def run(capsys, *arguments):
    code = exit_code(main, [*map(str, arguments), "--workers", "0"])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", list(SPLITS))
def test_every_layout_is_counted_and_its_labels_are_summed(tmp_path, monkeypatch, capsys, name):
    root = write_pseudo_dataset(name, tmp_path, count=3)
    monkeypatch.setitem(PUBLISHED_COUNTS, name, dict.fromkeys(SPLITS[name], 3))
    code, output, _ = run(capsys, name, root)
    assert code == 0 and "No problems found." in output and "all 32x48" in output
    report = check_dataset(name, root, workers=0)
    assert list(report["splits"]) == list(SPLITS[name]) and report["ok"]
    for split, entry in report["splits"].items():
        assert entry["found"] == entry["published"] == entry["read"] == 3
        if name == "citys" and split == "test":
            assert "classes" not in entry and "test: images" in output and "no masks" in output
            continue
        assert sum(label["pixels"] for label in entry["classes"]) + entry["void"]["pixels"] == 3 * 32 * 48
        assert sum(label["share"] for label in entry["classes"]) == pytest.approx(1)


def test_the_histogram_is_that_of_the_masks(own):
    report = check_dataset("custom", own, ["val"], workers=2)["splits"]["val"]
    masks = [block_mask((32, 48), MASK_VALUES["custom"], 1000 + index) for index in range(20)]
    for value in (0, 1, 2):
        label = report["classes"][value]
        assert label["pixels"] == sum(int((mask == value).sum()) for mask in masks)
        assert label["images"] == sum(value in mask for mask in masks)
    void = sum(int((mask == 255).sum()) for mask in masks)
    assert report["void"] == {"pixels": void, "share": void / (20 * 32 * 48), "images": 20}


def test_another_count_than_the_published_one(tmp_path, capsys):
    code, output, _ = run(capsys, "camvid", write_pseudo_dataset("camvid", tmp_path, count=2))
    assert code == 1 and "3 problem(s) found." in output
    for count in (367, 101, 233):
        assert f"found 2 images, published {count}" in output


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_bad_file_is_named_and_none_hides_another(own, tmp_path, capsys, workers):
    (own / "images/train_001.png").write_bytes(b"\x89PNG no image")
    (own / "masks/train_001.png").write_bytes(b"")
    content = (own / "images/train_019.png").read_bytes()
    (own / "images/train_019.png").write_bytes(content[: len(content) // 2])
    write_mask(own / "masks/train_003.png", block_mask((32, 47), (0, 1, 2)))
    illegal = block_mask((32, 48), (0, 1, 2))
    illegal[0, :3] = 99
    write_mask(own / "masks/train_005.png", illegal)
    write_image(own / "masks/val_002.png", np.full((32, 48, 3), (1, 2, 3), dtype=np.uint8))
    path = tmp_path / "report.json"
    code = exit_code(main, ["custom", str(own), "--json", str(path), "--workers", str(workers)])
    output = capsys.readouterr().out
    report = json.loads(path.read_text())
    found = {
        (problem["kind"], Path(problem["file"]).relative_to(own).as_posix())
        for entry in report["splits"].values()
        for problem in entry["problems"]
    }
    assert code == 1 and not report["ok"]
    assert found == {
        ("unreadable image", "images/train_001.png"),
        ("unreadable mask", "masks/train_001.png"),
        ("unreadable image", "images/train_019.png"),
        ("size", "masks/train_003.png"),
        ("illegal value", "masks/train_005.png"),
        ("illegal value", "masks/val_002.png"),
    }
    for _, name in found:
        assert str(own / name) in output
    assert "99 (3 pixels)" in output and "32x47" in output and "6 problem(s) found." in output
    assert report["splits"]["train"]["read"] == 18 and report["splits"]["test"]["problems"] == []
    assert report["splits"]["val"]["classes"][0]["images"] == 19  # what is right is still counted


def test_many_problems_are_counted_and_the_first_are_shown(tmp_path, capsys):
    root = write_pseudo_dataset("custom", tmp_path, count=25)
    for path in root.glob("masks/train_*"):
        path.write_bytes(b"")
    code, output, _ = run(capsys, "custom", root, "--split", "train")
    assert code == 1 and "25 x unreadable mask" in output and "... and 5 more" in output


def test_missing_files_and_missing_splits(own, tmp_path, capsys):
    (own / "masks/val_000.png").unlink()
    (own / "test.txt").write_text("images/test_000.png\nimages/test_001.png x.png\n")
    code, output, _ = run(capsys, "custom", own)
    assert code == 1 and f"missing file: {own}/masks/val_000.png does not exist" in output
    assert "unusable list: " in output and "some lines have a mask and some do not" in output
    report = check_dataset("custom", own, ["val"], workers=0)["splits"]["val"]
    assert report["read"] == 20 and report["classes"][0]["images"] == 19  # the others are still counted
    (own / "val.txt").unlink()
    code, output, _ = run(capsys, "custom", own, "--split", "val")
    assert code == 1 and "val.txt does not exist" in output
    citys = write_pseudo_dataset("citys", tmp_path / "citys")
    (citys / "leftImg8bit/test/town/test_000_leftImg8bit.png").unlink()
    code, output, _ = run(capsys, "citys", citys, "--split", "test")
    assert code == 1 and "no image under" in output


def test_sizes_and_notes(tmp_path, capsys):
    root = write_pseudo_dataset("voc", tmp_path, count=3)
    image, mask = sample_paths("voc", "train", "train_000")
    Image.new("L", (60, 20), 7).save(root / image)
    write_mask(root / mask, block_mask((20, 60), MASK_VALUES["voc"]), palette=True)
    image, _ = sample_paths("voc", "train", "train_001")
    exif = Image.Exif()
    exif[274] = 6
    Image.open(root / image).save(root / image, exif=exif)
    image, _ = sample_paths("voc", "train", "train_002")
    Image.open(root / image).convert("CMYK").save(root / image)
    entry = check_dataset("voc", root, ["train"], workers=0)["splits"]["train"]
    assert entry["sizes"] == {"different": 2, "smallest": [20, 60], "median": [32, 48], "largest": [32, 48]}
    assert sorted(entry["notes"].values()) == [1, 1, 1]
    code, output, _ = run(capsys, "voc", root, "--split", "train")
    assert code == 1  # by the count alone
    assert "smallest 20x60, median 32x48, largest 32x48" in output and "2 different sizes" in output
    for note in ("greyscale", "EXIF orientation", "mode CMYK"):
        assert f"1 image(s): {note}" in output


def test_a_sample_reads_fewer_and_counts_all(own, capsys):
    (own / "images/train_001.png").write_bytes(b"")  # not among the five
    code, output, _ = run(capsys, "custom", own, "--sample", 5)
    report = check_dataset("custom", own, workers=0, sample=5)["splits"]["train"]
    assert code == 0 and report["found"] == 20 and report["read"] == 5
    assert sum(label["pixels"] for label in report["classes"]) <= 5 * 32 * 48


def test_ignore_label_makes_a_value_legal(own, capsys):
    write_mask(own / "masks/train_000.png", block_mask((32, 48), (0, 1, 99)))
    assert run(capsys, "custom", own)[0] == 1
    assert run(capsys, "custom", own, "--ignore-label", 99)[0] == 0


def test_invalid_arguments(own, tmp_path, capsys):
    build_cache("custom", own, tmp_path / "copy", workers=0)
    for arguments, message in (
        (("custom", tmp_path / "nowhere"), "nowhere does not exist"),
        (("custom", tmp_path / "copy"), "is a decoded cache"),
        (("voc", own, "--split", "test"), "voc has no split 'test'"),
        (("custom", own, "--sample", 0), "sample 0"),
        (("custom", own, "--ignore-label", 256), "--ignore-label 256"),
        (("custom", own, "--json", tmp_path / "no/report.json"), "--json: the folder"),
    ):
        code, output, error = run(capsys, *arguments)
        assert code == 2 and not output.startswith("custom in") and error.startswith("error: ") and message in error
    assert exit_code(main, ["custom", str(own), "--workers", "-1"]) == 2
    assert exit_code(main, ["cityscapes", str(own)]) == 2


def test_camvid_as_it_is_on_disk(capsys):
    root = Path(os.environ.get("CAMVID_ROOT", Path(__file__).parents[3] / "shared" / "camvid"))
    if not root.is_dir():
        pytest.skip(f"no CamVid: neither CAMVID_ROOT nor {root}")
    code = exit_code(main, ["camvid", str(root), "--workers", "2"])
    output, errors = capsys.readouterr()
    assert code == 0, output + errors
    rows = [line.split() for line in output.splitlines()]
    for split, count in (("train", "367"), ("val", "101"), ("test", "233")):
        assert [split, count, count, count, "0"] in rows
    assert ["0", "sky", "10682767"] in [row[:3] for row in rows] and output.count("all 360x480") == 3
