"""Conversion of labelme's files: exact label maps of every type of shape, names, places, and what is wrong."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from dataset.config import ReadingConfig
from dataset.custom import Custom
from tests.dataset.convert.pictures import HEIGHT, WIDTH, assert_labels, box, converted, pairs, write_picture


def shape(label, points, kind="polygon", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def write_labelme(file, *shapes, image="", path=None, **more):
    """Writes a JSON file, and its image at `image` relative to it (default: beside it)."""
    image = image or f"{file.stem}.jpg"
    write_picture(file.parent / image)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": path or image, "imageData": None}
    file.write_text(json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | more))


def as_base64(mask) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.array(mask, dtype=np.uint8)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


LEFT = shape("road", pairs(box(0, 0, 4, HEIGHT)))
HALF = " ".join(["0" * 4 + "." * 4] * HEIGHT)


def test_every_type_of_shape(tmp_path):
    ring = np.ones((3, 3))
    ring[1, 1] = 0
    write_labelme(
        tmp_path / "source/train/a.json",
        shape("box", [[3, 2], [0, 0]], "rectangle"),
        shape("disc", [[6, 2], [6, 3.6]], "circle"),
        shape("corner", [[0, 6], [0, 2.9], [3.1, 6]]),
        shape("ring", [[5, 3], [7, 5]], "mask", mask=as_base64(ring)),
        shape("box", pairs(box(3, 5, 5, 6)), None),
        shape("box", [[1, 1]], "point"),
        shape("corner", [[1, 1], [2, 2]], "linestrip"),
    )
    report, found = converted("labelme", tmp_path / "source")
    assert [entry["name"] for entry in report["classes"]] == ["box", "corner", "disc", "ring"]
    text = """
        000..22.
        000.2222
        ....2222
        1....333
        11...3.3
        11100333
    """
    assert_labels(found, {"train: train/a.jpg": text})
    assert [entry["objects"] for entry in report["classes"]] == [2, 1, 1, 1]
    assert [line.partition(":")[2].partition(":")[0].strip() for line in report["notes"]] == [
        "1 object(s) of the type linestrip, which has no area",
        "1 object(s) of the type point, which has no area",
    ]


PLACES = {
    "beside": ("train/a.json", "a.JPEG", None, "train/a.JPEG"),
    "in folders for each kind": ("train/labels/a.json", "../images/a.jpg", None, "train/a.jpg"),
    "in folders for each kind, split last": ("json/train/a.json", "../../images/train/a.jpg", None, "train/a.jpg"),
    "moved apart": ("labels/train/a.json", "../../images/train/a.jpg", "a.jpg", "train/a.jpg"),
    "moved from Windows": ("train/a.json", "../pictures/train/a.jpg", "..\\old\\a.jpg", "train/pictures/a.jpg"),
    "renamed together": ("train/a.json", "a.png", "IMG_1.jpg", "train/a.png"),
    "without a path": ("train/a.json", "a.png", " ", "train/a.png"),
}


@pytest.mark.parametrize("place", PLACES)
def test_places(tmp_path, place):
    file, image, path, name = PLACES[place]
    write_labelme(tmp_path / "source" / file, LEFT, image=image, path=path)
    other = file.replace("train", "valid")  # the same names in another split
    write_labelme(tmp_path / "source" / other, LEFT, image=image.replace("train", "valid"), path=path)
    _, found = converted("labelme", tmp_path / "source")
    assert_labels(found, {f"train: {name}": HALF, f"val: {name.replace('train', 'val')}": HALF})


def test_names_in_any_case_and_spacing(tmp_path):
    for name, label in (("a", "Road"), ("b", "road "), ("c", "Road"), ("d", "  road")):
        right = shape("two  words", pairs(box(4, 0, 8, 6)))
        write_labelme(tmp_path / f"source/{name}.json", LEFT | {"label": label}, right)
    report, found = converted("labelme", tmp_path / "source")
    assert [(entry["name"], entry["objects"]) for entry in report["classes"]] == [("road", 4), ("two words", 4)]
    assert report["notes"] == ["'road', 'Road' are one class, 'road'"]
    assert len(found) == 4 and all((labels == [[0] * 4 + [1] * 4] * HEIGHT).all() for labels in found.values())


def test_void_and_background_labels(tmp_path):
    shapes = [
        shape("road", pairs(box(0, 0, 8, 6))),
        shape("__ignore__", pairs(box(0, 0, 2, 2))),
        shape("Void", pairs(box(0, 4, 2, 6))),
        shape("_background_", pairs(box(6, 0, 8, 2))),
    ]
    write_labelme(tmp_path / "source/a.json", *shapes)
    report, found = converted("labelme", tmp_path / "source")
    assert [entry["name"] for entry in report["classes"]] == ["road"]
    assert_labels(found, {"train: a.jpg": "..0000.. ..0000.. 00000000 00000000 ..000000 ..000000"})
    assert report["void"]["objects"] == 3 and "'Void' marks void" in report["notes"]
    _, found = converted("labelme", tmp_path / "source", tmp_path / "with", background="nothing")
    assert_labels(found, {"train: a.jpg": "..111100 ..111100 11111111 11111111 ..111111 ..111111"})


def test_named_classes(tmp_path):
    write_labelme(tmp_path / "source/a.json", LEFT, shape("cra", pairs(box(4, 0, 8, 6))))
    with pytest.raises(ValueError, match=r"shape 2 \(cra\): an unknown class: got 'cra', .* Did you mean car\?"):
        converted("labelme", tmp_path / "source", classes=("car", "road"))
    report, found = converted("labelme", tmp_path / "source", classes=("car", "road"), skip_bad=True)
    assert [entry["objects"] for entry in report["classes"]] == [0, 1]
    assert_labels(found, {"train: a.jpg": HALF.replace("0", "1")})
    assert "1 object(s) an unknown class" in report["notes"][0]


def test_the_validation_split_is_that_of_training_with_the_flag(tmp_path):
    for number in range(20):
        write_labelme(tmp_path / f"source/{number}.json", LEFT)
    report, found = converted("labelme", tmp_path / "source", tmp_path / "with", val_fraction=0.25)
    assert 1 < report["splits"]["val"] < 10 and sum(report["splits"].values()) == 20
    converted("labelme", tmp_path / "source", tmp_path / "without")
    assert not (tmp_path / "without/val.txt").exists()
    later = Custom(tmp_path / "without", "val", reading=ReadingConfig(val_fraction=0.25))
    assert [path.rpartition("/")[2] for path in later.image_paths] == [
        name.rpartition("/")[2].removeprefix("val: ") for name in found if name.startswith("val")
    ]


BAD = {
    "circle": (shape("road", [[1, 1]], "circle"), "a circle of other than 2 points"),
    "rectangle": (shape("road", [[1, 1], [2, 2], [3, 3]], "rectangle"), "a rectangle of other than 2 or 4 points"),
    "polygon": (shape("road", [[1, 1], [2, 2]]), "a polygon of fewer than 3 points: got 2"),
    "no pairs": (shape("road", [[1, 1, 1], [2, 2, 2], [3, 3, 3]]), "what should be points is not"),
    "mask": (shape("road", [[1, 1], [2, 2]], "mask", mask="AAAA"), "a damaged mask: expected a PNG in base 64"),
    "no mask": (shape("road", [[1, 1], [2, 2]], "mask"), "a damaged mask"),
    "type": (shape("road", [[1, 1], [2, 2]], "cube"), "an unknown type of shape: got 'cube'"),
    "label": (shape(None, pairs(box(0, 0, 1, 1))), "no label: got None"),
    "empty": ("shape", "no label: got None"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_shapes(tmp_path, kind):
    bad, message = BAD[kind]
    write_labelme(tmp_path / "source/a.json", LEFT, bad)
    with pytest.raises(ValueError, match=rf"a.json, shape 2.*: {message}.*--skip-bad"):
        converted("labelme", tmp_path / "source")
    report, found = converted("labelme", tmp_path / "source", skip_bad=True)
    assert_labels(found, {"train: a.jpg": HALF})
    assert f"1 object(s) {message.partition(':')[0]}" in report["notes"][0]


def test_bad_files(tmp_path):
    source = tmp_path / "source"
    write_labelme(source / "a.json", LEFT)
    write_labelme(source / "b.json", LEFT)
    (source / "b.jpg").unlink()
    (source / "c.json").write_text("{")
    with pytest.raises(ValueError, match=r"c.json is no JSON file, or a damaged one.*--skip-bad"):
        converted("labelme", source)
    (source / "c.json").write_text('{"other": 1}')
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images do not exist in .*source or below: b.jpg"):
        converted("labelme", source)
    write_picture(source / "d.jpg")
    report, found = converted("labelme", source, skip_bad=True)
    assert_labels(found, {"train: a.jpg": HALF})
    assert report["notes"] == [
        "1 JSON file(s) have no shapes: c.json",
        "1 image file(s) have no annotations and are left out: d.jpg",
        f"left out: 1 image(s) without a file: {source}, b.jpg",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="has no labelme annotations: looked for files"):
        converted("labelme", tmp_path / "none")
    write_labelme(source / "e.json", LEFT, path="a.jpg")
    with pytest.raises(ValueError, match=r"a.jpg is annotated twice, in .*a.json and .*e.json"):
        converted("labelme", source, skip_bad=True, overwrite=True)
