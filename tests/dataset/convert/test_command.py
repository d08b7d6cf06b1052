"""What all conversions have in common: the folder, names, orientations, the report, and the command line."""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.check.checks import check_dataset
from dataset.convert import writer
from dataset.convert.command import convert, main
from dataset.convert.labels import classes_text, make_labels
from dataset.convert.plan import MARKER, SHEET
from dataset.labels import VOID
from tests.dataset.convert.pictures import HEIGHT, WIDTH, assert_labels, box, converted, pairs, write_picture
from tests.dataset.convert.test_labelme import HALF, LEFT, shape, write_labelme
from tests.programs import exit_code


@pytest.fixture
def source(tmp_path):
    for split, count in (("train", 5), ("val", 2)):
        for number in range(count):
            write_labelme(tmp_path / f"source/{split}/{number}.json", LEFT)
    return tmp_path / "source"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_and_its_pictures(source, tmp_path):
    report, found = converted("labelme", source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["classes.txt", "train.txt", "val.txt", "images", "masks", SHEET, MARKER]
    )
    assert (tmp_path / "out/val.txt").read_text() == (
        "images/val/0.jpg masks/val/0.png\nimages/val/1.jpg masks/val/1.png\n"
    )
    with Image.open(tmp_path / "out/masks/val/0.png") as mask:
        assert mask.mode == "L" and mask.size == (WIDTH, HEIGHT)
    assert os.path.samefile(source / "val/0.jpg", tmp_path / "out/images/val/0.jpg")
    assert len(found) == 7 and report["splits"] == {"train": 5, "val": 2}
    sheet = np.asarray(Image.open(tmp_path / "out" / SHEET))
    assert sheet.shape[1] > 4 * 300 and (sheet[:5] == 255).all() and not (sheet[100] == 255).all()


def test_any_number_of_processes_writes_the_same(source, tmp_path):
    convert("labelme", source, tmp_path / "out", workers=0)
    first = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "kept")
    convert("labelme", source, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == first


def test_images_are_copied_where_there_are_no_hard_links(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr(writer.os, "link", refuse)
    _, found = converted("labelme", source, tmp_path / "out")
    assert len(found) == 7 and not os.path.samefile(source / "val/0.jpg", tmp_path / "out/images/val/0.jpg")


def test_a_folder_that_holds_something(source, tmp_path):
    converted("labelme", source, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="out holds a conversion already: .*--overwrite"):
        converted("labelme", source, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    for file in source.glob("val/*"):
        file.unlink()
    report, _ = converted("labelme", source, tmp_path / "out", overwrite=True)
    assert report["splits"] == {"train": 5} and not (tmp_path / "out/val.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.txt").write_text("precious")
    with pytest.raises(ValueError, match="mine holds files that no conversion has written"):
        converted("labelme", source, tmp_path / "mine", overwrite=True)
    assert contents(tmp_path / "mine") == {"train.txt": b"precious"}
    with pytest.raises(ValueError, match="train.txt is a file: expected a new or empty folder"):
        converted("labelme", source, tmp_path / "mine/train.txt")
    for inside in (source, source / "out", source.parent):
        with pytest.raises(ValueError, match="lie within one another"):
            converted("labelme", source, inside, overwrite=True)
    assert source.is_dir()


def test_an_interrupted_conversion_starts_anew(source, tmp_path, monkeypatch, capsys):
    link, count = writer._link, iter(range(9))

    def stop(*paths):
        if next(count) == 3:
            raise KeyboardInterrupt
        link(*paths)

    monkeypatch.setattr(writer, "_link", stop)
    words = ["labelme", str(source), str(tmp_path / "out"), "--workers", "0"]
    assert exit_code(main, words) == 130
    left = contents(tmp_path / "out")
    assert "conversion.unfinished" in left and MARKER not in left and "classes.txt" not in left
    (problem, *_) = check_dataset("custom", tmp_path / "out", workers=0)["splits"]["train"]["problems"]
    assert "classes.txt does not exist" in problem["message"]
    monkeypatch.undo()
    assert exit_code(main, words) == 0
    assert "conversion.unfinished" not in contents(tmp_path / "out")


@pytest.mark.parametrize(
    "orientation, stored, annotated, expected, open",
    [
        (6, (6, 8), (8, 6), (8, 6), False),  # drawn on the upright picture, which training reads
        (6, (6, 8), (6, 8), (6, 8), False),  # drawn on the stored one, which training reads then
        (6, (6, 8), None, (8, 6), False),
        (3, (6, 8), (6, 8), (6, 8), True),
        (1, (6, 8), (6, 8), (6, 8), False),
    ],
)
def test_orientations(tmp_path, orientation, stored, annotated, expected, open):
    size = dict(zip(("imageHeight", "imageWidth"), annotated or (None, None), strict=True))
    write_labelme(tmp_path / "source/a.json", shape("road", pairs(box(0, 0, 99, 3))), **size)
    write_picture(tmp_path / "source/a.jpg", stored, orientation)
    report, found = converted("labelme", tmp_path / "source")
    labels = np.full(expected, VOID, dtype=np.uint8)
    labels[:3] = 0
    np.testing.assert_array_equal(found["train: a.jpg"], labels)
    assert any("EXIF orientation and annotations that fit both ways" in line for line in report["notes"]) == open


def test_annotations_of_another_size(tmp_path):
    write_labelme(tmp_path / "source/a.json", LEFT, imageHeight=12, imageWidth=16)
    write_labelme(tmp_path / "source/b.json", LEFT)
    write_labelme(tmp_path / "source/c.json", LEFT)
    (tmp_path / "source/c.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a.json: .* for 16x12 pixels \(width x height\), .*a.jpg has 8x6: was it"):
        converted("labelme", tmp_path / "source")
    report, found = converted("labelme", tmp_path / "source", skip_bad=True)
    assert_labels(found, {"train: b.jpg": HALF})
    assert [line.partition(":")[2].partition(":")[0] for line in report["notes"]] == [
        " 1 image(s) of another size than their annotations", " 1 image(s) that cannot be read",
    ]  # fmt: skip


def test_names_that_lists_cannot_hold(tmp_path):
    names = ['a "b".jpg', "a,b.jpg", "a\tb.jpg", " a b .jpg", "A.jpg", "a.jpg", "a.png", "ä.jpg"]
    for number, name in enumerate(names):
        write_labelme(tmp_path / f"source/{number}.json", LEFT, image=name)
    _, found = converted("labelme", tmp_path / "source")
    assert len(found) == len(names) and {labels.shape for labels in found.values()} == {(HEIGHT, WIDTH)}
    masks = sorted(path.name for path in (tmp_path / "source_converted/masks").iterdir())
    assert len(masks) == len(names) and {"a.png", "a_2.png", "a_3.png"} <= {name.lower() for name in masks}


def test_images_of_no_split_and_two_validation_splits(source, tmp_path):
    with pytest.raises(ValueError, match="--val-fraction 0.5: the source has a validation split of its own"):
        converted("labelme", source, val_fraction=0.5)
    write_labelme(source / "alone.json", LEFT)
    with pytest.raises(ValueError, match=r"1 image\(s\) are in the folder or list of no split, .*alone.jpg"):
        converted("labelme", source)


@pytest.mark.parametrize("background", [None, "ground"])
def test_what_is_said_of_one_class(source, tmp_path, background):
    converted("labelme", source, tmp_path / "out", background=background)
    assert (tmp_path / "out/classes.txt").read_text().endswith("road\nvoid = 255\n")
    splits = check_dataset("custom", tmp_path / "out", workers=0)["splits"]
    kinds = [problem["kind"] for entry in splits.values() for problem in entry["problems"]]
    assert kinds == ([] if background else ["one class"])


def test_names_of_classes():
    numbered = make_labels([("a", None), ("b 1 2 3", (4, 5, 6)), ("void", None), ("c", (4, 5, 6))], None)
    (r, g, b), _, other = numbered.colors
    assert classes_text(numbered) == f"a {r} {g} {b}\nb 1 2 3 4 5 6\nc {' '.join(map(str, other))}\n"
    uncolored = make_labels([(name, None) for name in ("a", "b 1 2 3", "c")], None)
    assert classes_text(uncolored).splitlines()[1].startswith("b 1 2 3 ")
    assert classes_text(make_labels([(name, None) for name in "abc"], "d")) == "d\na\nb\nc\n"
    assert classes_text(make_labels([(n, None) for n in "abc"], " B ")) == "B\na\nc\n"
    with pytest.raises(ValueError, match="cannot hold the names 'a = 5': .* Rename them"):
        classes_text(make_labels([("a = 5", None), ("b", None)], None))
    with pytest.raises(ValueError, match="have 254 classes: at most 253 fit"):
        make_labels([(str(number), None) for number in range(254)], None)
    for entries in ([], [("void", None)], [("_background_", None)]):
        with pytest.raises(ValueError, match="the annotations have no class"):
            make_labels(entries, None)
    with pytest.raises(ValueError, match="--background void: that name means void"):
        make_labels([("a", None)], "void")


def test_command_line(source, tmp_path, capsys):
    out = tmp_path / "my out"
    words = ["labelme", str(source), str(out), "--workers", "0", "--background", "ground", "--order", "area"]
    assert exit_code(main, words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{source} -> {out}" and lines[1] == "images: 5 train, 2 val"
    assert [line.split() for line in lines[5:8]] == [
        ["0", "ground", "0", "7", "168", "50.000"], ["1", "road", "7", "7", "168", "50.000"],
        ["255", "void", "0", "0", "0", "0.000"],
    ]  # fmt: skip
    check, train = (shlex.split(line) for line in lines[-2:])
    assert check == ["python", "-m", "dataset.check", "custom", str(out)]
    assert train == ["python", "train_baseline.py", "--dataset", "custom", "--data", str(out),
                     *"--crop-size 32 32 --batch-size 16".split()]  # fmt: skip
    for words, message in (
        (["labelm", str(source), str(out)], "labelm: did you mean labelme?"),
        (["coco", str(source / "no"), str(out)], "no does not exist"),
        (["coco", str(source / "train/0.jpg"), str(out)], "it is a file; unpack it first"),
        (["coco", str(source), str(out), "--classes", "a"], "--classes: the files of coco name the classes"),
        (["labelme", str(source), str(out)], "--overwrite to replace it"),
    ):
        assert exit_code(main, words) == 2 and message in capsys.readouterr().err
