"""Every data set in its real layout, with one image per split."""

from pathlib import Path

import numpy as np
import pytest

from dataset import DATASETS, build_dataset
from dataset.config import ReadingConfig
from tests.pseudo_datasets import MASK_VALUES, SPLITS, block_mask, sample_paths, write_mask, write_pseudo_dataset

CASES = [(name, split) for name, splits in SPLITS.items() for split in splits]

# mask value -> train id, written out by hand for the values that the pseudo masks hold
TRAIN_IDS = {
    "citys": {7: 0, 8: 1, 11: 2, 0: 255, 33: 18},
    "voc": {0: 0, 1: 1, 20: 20, 255: 255},
    "camvid": {0: 0, 3: 3, 10: 10, 11: 255},
    "ade20k": {0: 255, 1: 0, 2: 1, 150: 149},
    "coco_stuff_164k": {0: 0, 90: 90, 181: 181, 255: 255},
    "custom": {0: 0, 1: 1, 2: 2, 255: 255},
    "synthetic": {0: 0, 1: 1, 2: 2, 255: 255},
}
NUM_CLASSES = {"citys": 19, "voc": 21, "camvid": 11, "ade20k": 150, "coco_stuff_164k": 182, "custom": 3, "synthetic": 3}


@pytest.mark.parametrize(("name", "split"), CASES)
def test_layout_is_read_and_labels_are_mapped(tmp_path, name, split):
    data = build_dataset(name, write_pseudo_dataset(name, tmp_path), split)
    assert len(data) == 1 and data.name == name and data.split == split
    assert data.num_classes == len(data.classes) == len(data.palette) == NUM_CLASSES[name]
    image, mask = data[0]
    assert image.shape == (32, 48, 3) and image.dtype == np.uint8
    if name == "citys" and split == "test":
        assert mask is None and data.mask_paths is None
        return
    stored = block_mask((32, 48), MASK_VALUES[name], 1000 * SPLITS[name].index(split))
    np.testing.assert_array_equal(mask, np.vectorize(TRAIN_IDS[name].get)(stored))
    assert mask.dtype == np.uint8
    assert all(data.label_ids[train_id] == value for value, train_id in TRAIN_IDS[name].items() if train_id != 255)


@pytest.mark.parametrize("name", SPLITS)
def test_illegal_value_names_file_value_and_legal_ones(tmp_path, name):
    illegal = {"citys": 77, "voc": 77, "camvid": 77, "ade20k": 151, "coco_stuff_164k": 182}.get(name, 4)
    root = write_pseudo_dataset(name, tmp_path)
    mask = block_mask((32, 48), MASK_VALUES[name])
    mask[3, 4] = illegal
    path = root / sample_paths(name, "train", "train_000")[1]
    write_mask(path, mask, palette=name == "voc")
    data = build_dataset(name, root, "train")
    with pytest.raises(ValueError, match=rf"(?s){path.name}.*{illegal} \(1 pixels\).*Classes are.*255") as caught:
        data.check_samples()
    assert str(path) in str(caught.value)
    data = build_dataset(name, root, "train", reading=ReadingConfig(ignore_label=illegal))
    assert data[0][1][3, 4] == 255


def test_published_ignore_label_means_255(tmp_path):
    root = write_pseudo_dataset("camvid", tmp_path)
    np.testing.assert_array_equal(
        build_dataset("camvid", root, "train", reading=ReadingConfig(ignore_label=-1))[0][1],
        build_dataset("camvid", root, "train")[0][1],
    )
    with pytest.raises(ValueError, match="--ignore-label 256"):
        ReadingConfig(ignore_label=256)


def test_cityscapes_void_labels_are_legal(tmp_path):
    root = write_pseudo_dataset("citys", tmp_path)
    ids = np.resize(np.array([*range(34), 255], dtype=np.uint8), (32, 48))
    write_mask(root / sample_paths("citys", "train", "train_000")[1], ids)
    mask = build_dataset("citys", root, "train")[0][1]
    assert sorted(np.unique(mask)) == [*range(19), 255]
    assert (mask[ids == 24] == 11).all() and (mask[ids == 26] == 13).all() and (mask[ids == 29] == 255).all()


def test_unknown_names_and_splits_list_what_exists(tmp_path):
    with pytest.raises(ValueError, match="citys, voc, camvid, ade20k, coco_stuff_164k, custom, synthetic"):
        build_dataset("cityscapes", tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        build_dataset("voc", write_pseudo_dataset("voc", tmp_path / "voc"), "test")
    root = write_pseudo_dataset("custom", tmp_path / "custom")
    (root / "test.txt").unlink()
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        build_dataset("custom", root, "test")


@pytest.mark.parametrize("name", DATASETS)
def test_errors_of_a_missing_or_empty_root_give_the_layout(tmp_path, name):
    for root, missing in ((tmp_path / "nowhere", "nowhere"), (tmp_path, "")):
        pattern = rf"(?s){missing} does not exist.*expected layout of {name}.*ROOT/"
        with pytest.raises(FileNotFoundError, match=pattern):
            build_dataset(name, root, "train")


def test_missing_masks_are_counted_and_the_first_are_named(tmp_path):
    root = write_pseudo_dataset("ade20k", tmp_path, count=9)
    for index in range(1, 9):
        (root / sample_paths("ade20k", "train", f"train_{index:03d}")[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)8 of 18 files.*train_001.*train_005.*expected layout") as caught:
        build_dataset("ade20k", root, "train")
    assert "train_006" not in str(caught.value)


def test_folder_above_the_root_is_accepted(tmp_path):
    write_pseudo_dataset("ade20k", tmp_path / "ADEChallengeData2016")
    assert build_dataset("ade20k", tmp_path, "val").root == tmp_path / "ADEChallengeData2016"


def test_second_name_of_the_training_list_of_voc(tmp_path):
    root = write_pseudo_dataset("voc", tmp_path, count=3)
    lists = root / "ImageSets/Segmentation"
    (lists / "trainaug.txt").unlink()
    (lists / "train_aug.txt").write_text("/JPEGImages/train_001.jpg /SegmentationClassAug/train_001.png\n")
    data = build_dataset("voc", root, "train")
    assert list(data.mask_paths) == [str(root / "SegmentationClassAug/train_001.png")]
    assert list(data.image_paths) == [str(root / "JPEGImages/train_001.jpg")]


@pytest.mark.parametrize("line", ["val_{0:03d}\n", "/JPEGImages/val_{0:03d}.jpg /SegmentationClass/val_{0:03d}.png\n"])
def test_without_a_list_all_augmented_masks_but_those_of_val_are_trained_on(tmp_path, line):
    root = write_pseudo_dataset("voc", tmp_path, count=3)
    lists = root / "ImageSets/Segmentation"
    (lists / "trainaug.txt").unlink()
    (lists / "val.txt").write_text("".join(map(line.format, range(3))))
    write_mask(root / "SegmentationClassAug/val_001.png", block_mask((32, 48), (0, 1)))
    data = build_dataset("voc", root, "train")
    assert [Path(path).stem for path in data.mask_paths] == ["train_000", "train_001", "train_002"]
    assert len(build_dataset("voc", root, "val")) == 3


def test_classes_file_of_a_custom_data_set(tmp_path):
    root = write_pseudo_dataset("custom", tmp_path)
    (root / "classes.txt").write_text("road 128 64 128\r\ntraffic light\r\n\r\nroute 66 is long\r\nsky 1 2 3\r\n")
    data = build_dataset("custom", root, "train")
    assert data.classes == ["road", "traffic light", "route 66 is long", "sky"]
    assert data.palette[0] == (128, 64, 128) and data.palette[3] == (1, 2, 3)
    for text, message in (("road\nroad\n", "line 2: the class 'road' occurs twice"), ("road 1 2 256\n", "above 255")):
        (root / "classes.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            build_dataset("custom", root, "train")


def test_colours_are_in_the_order_of_the_classes():
    for name, label, colour in (("citys", "sky", (70, 130, 180)), ("ade20k", "flag", (92, 0, 255))):
        assert dict(zip(DATASETS[name].CLASSES, DATASETS[name].PALETTE, strict=True))[label] == colour
