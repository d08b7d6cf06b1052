"""Conversion of COCO's annotations: exact label maps, the places of files, classes, and what is wrong with objects."""

import json

import numpy as np
import pytest

from tests.dataset.convert.pictures import HEIGHT, WIDTH, assert_labels, box, converted, grid, write_picture
from tests.dataset.convert.test_rle import encode, runs_of

CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "road"}, {"id": 90, "name": "never"}]


def annotation(category: int, segmentation, image: int = 1, **more) -> dict:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0} | more


def write_coco(file, annotations, names=("a.jpg",), folder="", categories=CATEGORIES, **sizes):
    """Writes annotations and the images that they name, below `folder` of the file's folder."""
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} | sizes for n, name in enumerate(names, 1)]
    for name in names:
        write_picture(file.parent / folder / name)
    annotations = [{"id": 100 + n} | one for n, one in enumerate(annotations)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def source_of(tmp_path, *annotations, **options):
    write_coco(tmp_path / "source/train/_annotations.coco.json", annotations, **options)
    return tmp_path / "source"


def test_polygons_parts_codes_and_crowds(tmp_path):
    ring = np.zeros((HEIGHT, WIDTH), dtype=bool)
    ring[1:4, 5:8] = True
    ring[2, 6] = False
    corner = np.zeros((HEIGHT, WIDTH), dtype=bool)
    corner[4:, 4:] = True
    source = source_of(
        tmp_path,
        annotation(7, [box(0, 0, 3, 2), box(4, 0, 5, 1)]),
        annotation(3, [box(0, 1, 2, 5)]),  # later, so over it
        annotation(7, {"size": [HEIGHT, WIDTH], "counts": encode(runs_of(ring))}),
        annotation(3, {"size": [HEIGHT, WIDTH], "counts": runs_of(corner)}, iscrowd=1),
        annotation(7, [box(3, 5, 5, 6)]),  # over the crowd, as is all that is outlined
        annotation(3, [box(5.6, 0, 9.9, 0.6)]),
    )
    report, found = converted("coco", source)
    text = """
        111.1.00
        001..111
        00...1.1
        00...111
        00......
        ...11...
    """
    assert_labels(found, {"train: train/a.jpg": text})
    assert [(entry["name"], entry["objects"]) for entry in report["classes"]] == [("road", 2), ("car", 3), ("never", 0)]
    assert report["void"]["objects"] == 1 and report["classes"][0]["pixels"] == (grid(text) == 0).sum()
    assert report["notes"][0].startswith("WARNING: 1 object(s) are marked as crowds (iscrowd), and void")
    as_objects, labels = converted("coco", source, tmp_path / "crowds", crowd="class")
    labels = labels["train: train/a.jpg"]
    assert (labels[4:, 4:] == [[0, 0, 0, 0], [1, 0, 0, 0]]).all() and as_objects["classes"][0]["objects"] == 3
    np.testing.assert_array_equal(np.delete(labels, slice(4, 6), 0), np.delete(grid(text), slice(4, 6), 0))
    assert as_objects["void"]["objects"] == 0 and as_objects["notes"] == []
    _, found = converted("coco", source, tmp_path / "with", background="ground")
    expected = np.array([[1, 2, 3] + [0] * 253], dtype=np.uint8)[0][np.minimum(grid(text), 3)]
    expected[4:, 4:] = np.where(grid(text)[4:, 4:] == 1, 2, 255)  # the crowd stays void
    np.testing.assert_array_equal(found["train: train/a.jpg"], expected)


def test_small_objects_over_large_ones(tmp_path):
    source = source_of(tmp_path, annotation(7, [box(2, 2, 4, 4)]), annotation(3, [box(0, 0, 8, 6)]))
    assert (converted("coco", source)[1]["train: train/a.jpg"] == 0).all()
    _, found = converted("coco", source, tmp_path / "by_area", order="area")
    assert_labels(found, {"train: train/a.jpg": "00000000 00000000 00110000 00110000 00000000 00000000"})


FULL, HALF = "0" * WIDTH, "0" * 4 + "." * 4
LEFT = annotation(3, [box(0, 0, 4, HEIGHT)])
LAYOUTS = {
    "roboflow": [("train/_annotations.coco.json", "", ("a.jpg",)), ("valid/_annotations.coco.json", "", ("b.jpg",))],
    "instances": [
        ("annotations/instances_train2017.json", "../train2017", ("a.jpg",)),
        ("annotations/instances_val2017.json", "../val2017", ("b.jpg",)),
    ],
    "images apart": [
        ("annotations/instances_train.json", "../images/train", ("a.JPG",)),
        ("annotations/instances_val.json", "../images/validation", ("a.JPG",)),
    ],
    "files of the splits in the root": [
        ("train.json", "images", ("a.jpg",)),
        ("val.json", "images", ("b.jpg",)),
    ],
    "one file whose names have folders": [("all.json", "", ("train/sub/a.jpg", "val/sub/a.jpg"))],
    "one file that names splits with years": [("all.json", "images", ("train2014/a.jpg", "val2014/a.jpg"))],
    "folders in names": [
        ("train/labels.json", "images", ("one/a.jpg", "two/a.jpg")),
        ("test/labels.json", "images", ("a b.png",)),
    ],
}
EXPECTED = {
    "roboflow": ["train: train/a.jpg", "val: val/b.jpg"],
    "instances": ["train: train/a.jpg", "val: val/b.jpg"],
    "images apart": ["train: train/a.JPG", "val: val/a.JPG"],
    "files of the splits in the root": ["train: train/a.jpg", "val: val/b.jpg"],
    "one file whose names have folders": ["train: train/sub/a.jpg", "val: val/sub/a.jpg"],
    "one file that names splits with years": ["train: train/a.jpg", "val: val/a.jpg"],
    "folders in names": ["train: train/one/a.jpg", "train: train/two/a.jpg", "test: test/a b.png"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    for file, folder, names in LAYOUTS[layout]:
        annotations = [LEFT | {"image_id": number} for number, _ in enumerate(names, 1)]
        write_coco(tmp_path / "source" / file, annotations, names, folder)
    report, found = converted("coco", tmp_path / "source")
    assert_labels(found, dict.fromkeys(EXPECTED[layout], " ".join([HALF] * HEIGHT)))
    assert report["notes"] == []


def test_names_of_another_case_and_stale_folders_are_found(tmp_path):
    source = tmp_path / "source"
    write_coco(source / "annotations/train.json", [LEFT], ("C:\\old\\A.jpg",), "../../elsewhere")
    write_picture(source / "pictures/a.JPG")
    _, found = converted("coco", source)
    assert list(found) == ["train: train/pictures/a.JPG"]


def test_other_files_are_passed_over(tmp_path):
    source = tmp_path / "source"
    write_coco(source / "annotations/instances_train2017.json", [LEFT], folder="../train2017")
    (source / "annotations/captions_train2017.json").write_text('{"images": [], "annotations": []}')
    (source / "info.json").write_text("[1]")
    write_picture(source / "train2017/spare.png")
    notes = converted("coco", source)[0]["notes"]
    assert notes == [
        "2 JSON file(s) are no instance annotations: annotations/captions_train2017.json, info.json",
        "1 image file(s) have no annotations and are left out: train2017/spare.png",
    ]


def test_the_entry_above_all_categories_is_left_out(tmp_path):
    categories = [{"id": 0, "name": "things", "supercategory": "none"}]
    categories += [{"id": n, "name": f"thing {n}", "supercategory": "things"} for n in (1, 2)]
    source = source_of(tmp_path, annotation(2, [box(0, 0, 8, 6)]), categories=categories)
    report, _ = converted("coco", source)
    assert [entry["name"] for entry in report["classes"]] == ["thing 1", "thing 2"]
    assert report["notes"] == ["the category 'things' (id 0), which only groups the others, is left out"]
    source = source_of(tmp_path, annotation(0, [box(0, 0, 8, 6)]), categories=categories)
    report, _ = converted("coco", source, tmp_path / "used")
    assert [entry["name"] for entry in report["classes"]] == ["things", "thing 1", "thing 2"]


def test_splits_may_number_the_categories_differently(tmp_path):
    write_coco(tmp_path / "source/train/x.json", [LEFT])
    other = [{"id": 1, "name": "Car "}, {"id": 2, "name": "tree"}]
    write_coco(tmp_path / "source/val/x.json", [annotation(1, [box(0, 0, 8, 6)])], categories=other)
    report, found = converted("coco", tmp_path / "source")
    assert [entry["name"] for entry in report["classes"]] == ["road", "car", "never", "tree"]
    assert (found["val: val/a.jpg"] == 1).all()
    assert report["notes"] == ["'car', 'Car' are one class, 'car'"]


def test_a_test_split_without_annotations_has_no_masks(tmp_path):
    write_coco(tmp_path / "source/train/x.json", [LEFT])
    write_coco(tmp_path / "source/test/x.json", [], ("a b.jpg", "c.jpg"))
    report, found = converted("coco", tmp_path / "source")
    assert report["unlabelled"] == ["test"] and report["splits"] == {"train": 1, "test": 2}
    assert found["test: test/a b.jpg"] is None


def test_images_without_objects(tmp_path):
    source = source_of(tmp_path, LEFT, names=("a.jpg", "b.jpg"))
    report, found = converted("coco", source)
    assert list(found) == ["train: train/a.jpg"]
    assert report["notes"] == ["1 image(s) in which nothing is drawn, void all over, are left out"]
    report, found = converted("coco", source, tmp_path / "with", background="Background")
    assert (found["train: train/b.jpg"] == 0).all() and (found["train: train/a.jpg"][:, :4] == 1).all()
    assert report["notes"] == ["1 image(s) in which nothing is drawn, Background all over, are kept"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image is left: nothing but void is drawn in any of them$"):
        converted("coco", source_of(tmp_path / "empty"))
    with pytest.raises(ValueError, match="COCO's crowd regions are void unless --crowd class is given"):
        converted("coco", source_of(tmp_path / "empty", LEFT | {"iscrowd": 1}))


BAD = {
    "two points": ([[0, 0, 4, 4]], "a polygon of fewer than 3 points: got 2"),
    "odd": ([[0, 0, 4, 4, 1]], "an odd number of coordinates: got 5"),
    "text": ([["a", 0, 4, 4, 1, 2]], "what should be numbers is not"),
    "infinite": ([[0, 0, float("inf"), 4, 1, 2]], "coordinates that are in no image"),
    "only a box": ([], "no outline: there is no segmentation, perhaps only a box"),
    "another size": ({"size": [8, 6], "counts": [48]}, r"a run-length code of another size: 8x6 \(height x width\)"),
    "cut": ({"size": [6, 8], "counts": "9P"}, "a damaged run-length code: .* ends within a number"),
    "short": ({"size": [6, 8], "counts": [4, 5]}, "a damaged run-length code: the runs cover 9 pixels: expected 48"),
    "no counts": ({"size": [6, 8]}, "no outline: expected polygons, or size and counts"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_objects(tmp_path, kind):
    segmentation, message = BAD[kind]
    source = source_of(tmp_path, LEFT, annotation(7, segmentation))
    with pytest.raises(ValueError, match=rf"_annotations.coco.json, annotation 101 \(car\): {message}.*--skip-bad"):
        converted("coco", source)
    report, found = converted("coco", source, skip_bad=True)  # into the folder of the failed attempt
    assert_labels(found, {"train: train/a.jpg": " ".join([HALF] * HEIGHT)})
    (line,) = report["notes"]
    assert line.startswith("left out: 1 object(s) " + message.partition(":")[0]) and "annotation 101 (car)" in line


def test_bad_references(tmp_path):
    source = source_of(tmp_path, LEFT, annotation(5, [box(0, 0, 8, 6)]))
    with pytest.raises(ValueError, match="annotation 101: an unknown category: category_id 5"):
        converted("coco", source)
    source = source_of(tmp_path, LEFT, LEFT | {"image_id": 9})
    with pytest.raises(ValueError, match=r"annotation 101 \(road\): there is no image with the image_id 9"):
        converted("coco", source)
    report, _ = converted("coco", source, skip_bad=True)
    assert "1 object(s) of an unknown image" in report["notes"][0]


def test_good_parts_of_a_bad_object_are_kept(tmp_path):
    source = source_of(tmp_path, annotation(3, [[0, 0, 1, 1], box(0, 0, 4, HEIGHT)]))
    report, found = converted("coco", source, skip_bad=True)
    assert_labels(found, {"train: train/a.jpg": " ".join([HALF] * HEIGHT)})
    assert "a polygon of fewer than 3 points" in report["notes"][0]


def test_objects_without_a_pixel_are_counted(tmp_path):
    source = source_of(tmp_path, LEFT, annotation(7, [box(20, 0, 30, 5)]))
    report, _ = converted("coco", source)
    (line,) = report["notes"]
    assert line.startswith("left out: 1 object(s) without the centre of any pixel of the image: ")
    assert report["classes"][1]["objects"] == 0


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no COCO annotations: looked for .*\n.*_annotations.coco.json"):
        converted("coco", write_and_return(tmp_path / "labelme/a.json", '{"shapes": []}').parent)
    with pytest.raises(ValueError, match=r"a.json is no JSON file, or a damaged one: .*line 1 column 2"):
        converted("coco", write_and_return(tmp_path / "cut/a.json", '{"imag').parent)
    for bad, message in (
        ({"images": [1], "categories": []}, r"a.json: images holds 1: expected"),
        ({"images": [{"id": 1}], "categories": []}, r"images holds \{'id': 1\}: expected an id and a file_name"),
        ({"images": [], "categories": [{"id": 1, "name": "a"}] * 2}, "categories holds the id 1 twice"),
    ):
        with pytest.raises(ValueError, match=message):
            converted("coco", write_and_return(tmp_path / "bad/a.json", json.dumps(bad)).parent)


def write_and_return(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
