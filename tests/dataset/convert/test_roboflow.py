"""Conversion of Roboflow's masks: exact label maps, the background, and what is wrong."""

import pytest

from tests.dataset.convert.pictures import HEIGHT, assert_labels, converted, grid, write_picture
from tests.pseudo_datasets import write_mask

CSV = "Pixel Value, Class\n0, background\n1, car\n3, road\n"
MASK = "00001133 " * HEIGHT
VOID_BACKGROUND, ITS_CLASS = "....0011 " * HEIGHT, "00001122 " * HEIGHT


def write_split(folder, *names, text=CSV):
    for name in names:
        write_picture(folder / name)
        write_mask(folder / f"{name.rpartition('.')[0]}_mask.png", grid(MASK))
    (folder / "_classes.csv").write_text(text)


def test_splits_and_the_background(tmp_path):
    write_split(tmp_path / "source/train", "a_png.rf.0123.jpg", "b.JPG")
    write_split(tmp_path / "source/valid", "c.png")
    write_split(tmp_path / "source/test", "d.jpg")
    names = ["train: train/a_png.rf.0123.jpg", "train: train/b.JPG", "val: val/c.png", "test: test/d.jpg"]
    report, found = converted("roboflow", tmp_path / "source")
    assert_labels(found, dict.fromkeys(names, VOID_BACKGROUND))
    assert [entry["name"] for entry in report["classes"]] == ["car", "road"] and report["notes"] == []
    report, found = converted("roboflow", tmp_path / "source", tmp_path / "with", background="Background")
    assert_labels(found, dict.fromkeys(names, ITS_CLASS))
    assert [entry["name"] for entry in report["classes"]] == ["Background", "car", "road"]


def test_without_splits(tmp_path):
    write_split(tmp_path / "source", "a.jpg", "b.jpg")
    report, _ = converted("roboflow", tmp_path / "source", val_fraction=0.5)
    assert report["splits"] == {"train": 1, "val": 1}


def test_bad_files(tmp_path):
    source = tmp_path / "source"
    write_split(source / "train", "a.jpg", "b.jpg", "c.jpg")
    (source / "train/b_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images in .* have no mask NAME_mask.png, .*b.jpg.*--skip-bad"):
        converted("roboflow", source)
    (source / "train/c.jpg").unlink()
    write_mask(source / "train/d_mask.png", grid(MASK.replace("0", "2")))
    write_picture(source / "train/d.jpg")
    report, found = converted("roboflow", source, skip_bad=True)
    assert_labels(found, {"train: train/a.jpg": VOID_BACKGROUND})
    assert [line.partition(": ")[0] for line in report["notes"]] == [
        "1 mask(s) have no image and are left out", "left out", "left out"
    ]  # fmt: skip
    (source / "train/b.jpg").unlink()
    with pytest.raises(ValueError, match=r"mask .*d_mask.png holds 1 value\(s\) that are no class: 2 .*--skip-bad"):
        converted("roboflow", source, tmp_path / "out")
    write_split(source / "valid", "a.jpg", text=CSV + "4, tree\n")
    with pytest.raises(ValueError, match="_classes.csv differ: expected the same classes in all splits"):
        converted("roboflow", source)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="has no masks of Roboflow: looked for _classes.csv"):
        converted("roboflow", tmp_path / "none")
